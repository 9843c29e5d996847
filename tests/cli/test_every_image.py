"""`zfcuda occlude --data` and `zfcuda invariance --data`."""

import dataclasses
import json

import pytest
import torch

import zfcuda.models
from zfcuda import cli
from zfcuda.cli.inputs import list_all
from zfcuda.cli.network import Network
from zfcuda.data import Preprocessing
from zfcuda.results import InvarianceSummary, OcclusionResult, OcclusionSummary

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main([*map(str, arguments), "--model", "tiny", "--quiet", "--device", "cpu"])


def test_images_in_folders_but_not_in_hidden_ones_and_in_linked_ones_once(tmp_path):
    names = ["b.png", "a/c.jpg", "a/d/e.png", "a/.f.png", ".thumbnails/g.png", "a/.cache/h/i.png"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, target in {"a/itself": "a", "a/up": ".", "again": "a"}.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    assert list_all(tmp_path) == [tmp_path / name for name in names[:3]]


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
    assert summary.names == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/e f.png")
    assert summary.target.tolist() == [0, 0, 0, 1, 1] and summary.class_names == ("cat", "dog")
    stems = ["0000000-0", "0000001-1", "0000002-2", "0000004-0", "0000006-e-f"]
    files = {path.name for path in (folder / "images" / "0000").glob("*.npz")}
    assert files == {f"{stem}.npz" for stem in stems}
    one = OcclusionResult.load(folder / "images" / "0000" / stems[-1])
    assert one.grid == (4, 4) and one.size == (8, 8) and list(one.layers) == ["3"]
    assert "photos" in (folder / "gallery.html").read_text()

    (folder / "images" / "0000" / "0000004-0.json").unlink()
    assert run(*arguments, "--target", "true") == 0
    assert (folder / "images" / "0000" / "0000004-0.json").exists()
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


def test_the_pictures_that_come_with_zfcuda(tmp_path):
    arguments = ["--data", "garments", "--limit", "3", "--out", tmp_path, *OCCLUDER]
    assert run("occlude", *arguments) == 0
    summary = OcclusionSummary.load(tmp_path / "garments-occlude" / "summary")
    assert len(summary.names) == 3 and summary.labelled


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
