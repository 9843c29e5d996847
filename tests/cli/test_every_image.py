"""`zfcuda occlude --data` and `zfcuda invariance --data`."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

import zfcuda.models
from zfcuda import cli
from zfcuda.cli.inputs import list_all
from zfcuda.cli.network import Network
from zfcuda.data import Preprocessing
from zfcuda.results import OcclusionResult
from zfcuda.results.invariance import InvarianceSummary
from zfcuda.results.occlusion import OcclusionSummary

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main([*map(str, arguments), "--model", "tiny", "--quiet", "--device", "cpu"])


@pytest.fixture
def photos(tmp_path):
    """Pictures of two classes, two of them broken."""
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/e f.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / name)
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG not really")
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "a.png").read_bytes()[:900])
    return folder


def test_images_in_folders_but_not_in_hidden_ones(tmp_path):
    names = ["b.png", "a/c.jpg", "a/d/e.png", "a/.f.png", ".thumbnails/g.png", "a/.cache/h/i.png"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_all(tmp_path) == [tmp_path / name for name in names[:3]]


def test_folders_that_are_linked_count_once(tmp_path):
    for name in ("a/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    assert list_all(tmp_path) == [tmp_path / "c.png", tmp_path / "a" / "b.png"]


OCCLUDER = ["--size", "8", "--stride", "8"]


def test_a_folder_is_occluded_and_gone_on_with(photos, tmp_path, capsys):
    arguments = ["occlude", "--data", photos, *OCCLUDER, "--layer", "3", "--out", tmp_path / "out"]
    assert run(*arguments, "--target", "true") == 0
    printed = capsys.readouterr()
    folder = tmp_path / "out" / "photos-occlude"
    names = {"summary.npz", "summary.json", "images.csv", "classes.csv", "summary.png"}
    names |= {"gallery.html"}
    *written, found = printed.out.splitlines()
    assert {*written} == {str(folder / n) for n in names}
    assert found == json.loads((folder / "summary.json").read_text())["entry"]["text"]
    assert printed.err.count("skipped") == 2
    assert "broken.png" in printed.err and "cut.png" in printed.err
    summary = OcclusionSummary.load(folder / "summary")
    assert summary.names == ("cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/e f.png")
    assert summary.target.tolist() == [0, 0, 0, 1, 1] and summary.class_names == ("cat", "dog")
    stems = ["0000000-a", "0000001-b", "0000003-c", "0000004-a", "0000006-e-f"]
    files = {path.name for path in (folder / "images" / "0000").glob("*.npz")}
    assert files == {f"{stem}.npz" for stem in stems}
    one = OcclusionResult.load(folder / "images" / "0000" / stems[-1])
    assert one.grid == (4, 4) and one.size == (8, 8) and list(one.layers) == ["3"]
    assert "photos" in (folder / "gallery.html").read_text()

    (folder / "images" / "0000" / "0000004-a.json").unlink()
    assert run(*arguments, "--target", "true") == 0
    assert (folder / "images" / "0000" / "0000004-a.json").exists()
    capsys.readouterr()
    assert run(*arguments, "--target", "true", "--fill", "black") == 2
    error = capsys.readouterr().err
    assert "holds a run with other settings: fill" in error and error.count("\n") == 1


def test_only_what_was_chosen_is_named_where_settings_differ(photos, tmp_path, capsys, monkeypatch):
    """Not what follows from it: how many images go together, the weights' hash, the inputs."""
    arguments = ["occlude", "--data", photos, "--out", tmp_path / "out"]
    assert run(*arguments, *OCCLUDER) == 0
    wider = Preprocessing(size=48, resize=None)
    monkeypatch.setattr(zfcuda.models, "preprocessing", lambda *_: wider)
    named = Network.of

    def other(options):
        network = named(options)
        torch.nn.init.ones_(network.model[0].weight)
        return dataclasses.replace(network, spec="tiny?size=48")

    monkeypatch.setattr(Network, "of", other)
    capsys.readouterr()
    assert run(*arguments, *OCCLUDER, "--limit", "3") == 2
    error = capsys.readouterr().err
    assert (
        "settings: model tiny there, tiny?size=48 here; number of images 7 there, 3 here. Go on"
        in error
    )
    assert "another folder (--out), or delete this one" in error


def test_a_run_that_fails_at_once_leaves_nothing(photos, tmp_path, capsys, monkeypatch):
    def failing(*_, **__):
        raise ValueError("the model fails")

    monkeypatch.setattr("zfcuda.experiments.over.Run.carry_out", failing)
    for command, *more in (("occlude", *OCCLUDER), ("invariance",)):
        assert run(command, "--data", photos, *more, "--out", tmp_path / "new" / "out") == 2
        assert "the model fails" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_pictures_only_if_asked_for(photos, tmp_path):
    arguments = ["occlude", "--data", photos, *OCCLUDER, "--out", tmp_path / "out"]
    folder = tmp_path / "out" / "photos-occlude" / "images" / "0000"
    assert run(*arguments) == 0
    summary = OcclusionSummary.load(folder.parents[1] / "summary")
    assert len([*folder.glob("*.png")]) == len(summary.shown) < 5
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert run(*arguments, "--pictures") == 0
    assert len([*folder.glob("*.png")]) == 5 and not [*folder.glob("*.pdf")]
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}


def test_the_pictures_that_come_with_zfcuda(tmp_path, capsys):
    arguments = ["--data", "garments", "--limit", "3", "--out", tmp_path, *OCCLUDER]
    assert run("occlude", *arguments) == 0
    summary = OcclusionSummary.load(tmp_path / "garments-occlude" / "summary")
    assert len(summary.names) == 3 and summary.labelled
    capsys.readouterr()
    assert run("occlude", *arguments, "--target", "true") == 2
    assert "the network has no class" in capsys.readouterr().err


def test_the_plan_of_a_data_set(photos, tmp_path, capsys):
    assert run("occlude", "--data", photos, *OCCLUDER, "--plan", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out.startswith("16 positions")
    assert not [*(tmp_path / "out").glob("*/images")]


def test_invariance_over_a_folder(photos, tmp_path, capsys):
    arguments = ["--data", photos, "--target", "true", "--layer", "0", "--out", tmp_path / "out"]
    assert run("invariance", *arguments, "--workers", "1") == 0
    folder = tmp_path / "out" / "photos-invariance"
    assert {path.rpartition("/")[2] for path in capsys.readouterr().out.splitlines()[:-1]} == {
        "summary.npz", "summary.json", "images.csv", "curves.csv", "summary.png",
        "gallery.html",
    }  # fmt: skip
    summary = InvarianceSummary.load(folder / "summary")
    assert len(summary.names) == 5 and len(summary.skipped) == 2 and summary.layers == ("0",)
    assert summary.target.tolist() == [0, 0, 0, 1, 1]
    assert len([*(folder / "images" / "0000").glob("*.json")]) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["occlude", "--data", "nowhere"], "'nowhere' does not exist"),
        (["occlude", "--data", "EMPTY"], "holds no image"),
        (["occlude", "--data", "PHOTOS", "--image", "a.png"], "takes --image or --data, not both"),
        (["occlude", "--data", "PHOTOS", "--limit", "0"], "--limit 0: expected at least 1"),
        (["occlude", "--data", "PHOTOS", "--workers", "-1"], "--workers -1: expected 0 or more"),
        (["occlude", "--data", "PHOTOS", "--target", "catt"], "did you mean 'cat'?"),
        (["occlude", "--data", "PLAIN", "--target", "true"], "nothing says what the images show"),
        (["invariance", "--data", "PHOTOS", "--image", "a.png"], "not both"),
        (["invariance", "--data", "PHOTOS", "--target", "1", "2"], "--target names 2 classes"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(photos, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"PHOTOS": photos, "EMPTY": tmp_path / "empty", "PLAIN": photos / "cat"}
    arguments = [places.get(argument, argument) for argument in arguments]
    assert run(*arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
