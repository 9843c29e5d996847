"""top9, evolve and filters: what they write, from which images, and how they end on bad input."""

import dataclasses
import gzip

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import zfcuda.models
from zfcuda import cli
from zfcuda.cli.commands import evolve
from zfcuda.results.filters import FilterComparison
from zfcuda.results.maxima import EvolutionResult, TopActivations
from zfcuda.storage.files import write_json
from zfcuda.training import Epoch

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main([*map(str, arguments), "--quiet", "--device", "cpu"])


@pytest.fixture
def photos(photo, tmp_path):
    """A folder with four pictures, one of them broken, and a folder with two more."""
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png", "c.jpg", "more/d.png", "more/e.png"):
        photo(f"photos/{name}")
    (folder / "broken.png").write_bytes(b"\x89PNG not really")
    return folder


@pytest.fixture
def garments(tmp_path):
    """The four files of the MNIST family: 36 training pictures, 3 of them for validation."""
    folder, rng = tmp_path / "idx", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 36), ("t10k", 5)):
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 3
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim])
            header += b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(
                gzip.compress(header + array.tobytes())
            )
    return folder


def test_top9_over_a_folder(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--model", "tiny", "--data", photos, "--layer", "1", "--layer", "4", "--out", out]
    assert run("top9", *arguments, "--maps", "2", "-k", "4") == 0
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()[:-1]) == sorted(map(str, out.iterdir()))
    assert {path.name for path in out.iterdir()} == {f"top4.{s}" for s in ("npz", "json", "png")}
    assert "skipped" in printed.err and "broken.png" in printed.err
    result = TopActivations.load(out / "top4")
    assert result.count == 5 and result.k == 4 and len(result.channels["4"]) == 2
    assert run("top9", *arguments, "--limit", "2", "--maps", "1,3", "--workers", "1") == 0
    result = TopActivations.load(out / "top9")
    assert result.count == 2 and result.channels["1"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("part", "count"), [("validation", 3), ("test", 5), ("training", 33), ("all", 41)]
)
def test_top9_over_idx_files(garments, tmp_path, part, count):
    arguments = ["--model", "tiny", "--layer", "4", "--maps", "all", "--out", tmp_path / "out"]
    assert run("top9", *arguments, "--data", garments, "--part", part) == 0
    result = TopActivations.load(tmp_path / "out" / "top9")
    assert result.count == count and len(result.channels["4"]) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "'nowhere' does not exist"),
        (["--data", "EMPTY"], "holds no image"),
        (["--limit", "0"], "--limit 0: expected at least 1"),
        (["--maps", "some"], "expected N, all or channels"),
        (["--maps", "99,"], "channels between 0 and 5"),
        (["--layer", "conv9"], "no layer 'conv9'"),
        (["-k", "0"], "k must be a positive int"),
    ],
)
def test_bad_input_ends_in_one_sentence(photos, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty" if a == "EMPTY" else a for a in arguments]
    base = ["--model", "tiny", "--data", photos, "--layer", "4", "--out", tmp_path / "out"]
    assert run("top9", *base, *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") <= 2
    assert not [*tmp_path.glob("out/*")]


def test_layers_must_be_named_where_none_are_known(photos, tmp_path, capsys):
    arguments = ["--model", "tiny", "--data", photos, "--out", tmp_path / "out"]
    for command in ("top9", "evolve"):
        assert run(command, *arguments) == 2
        assert f"{command} needs --layer NAME" in capsys.readouterr().err


def test_evolve(photos, tmp_path, capsys):
    model = zfcuda.models.load("tiny")
    folder = tmp_path / "run"
    folder.mkdir()
    for epoch in range(1, 8):
        with torch.no_grad():
            model[0].weight.mul_(1.1)
        save_file(model.state_dict(), folder / f"epoch-{epoch:04d}.safetensors")
    base = ["--model", "tiny", "--data", photos, "--layer", "4", "--out", tmp_path / "out"]
    assert run("evolve", *base, "--checkpoints", folder, "--maps", "3") == 0
    result = EvolutionResult.load(tmp_path / "out" / "evolution")
    assert result.checkpoints == ("1", "2", "5", "7")  # the paper's epochs and the last
    assert len(result.channels["4"]) == 3 and result.count == 5
    files = [folder / "epoch-0003.safetensors", folder / "epoch-0001.safetensors"]
    assert run("evolve", *base, "--checkpoints", *files) == 0
    result = EvolutionResult.load(tmp_path / "out" / "evolution")
    assert result.checkpoints == ("epoch-0003", "epoch-0001")
    capsys.readouterr()
    assert run("evolve", *base) == 2
    assert "needs --checkpoints" in capsys.readouterr().err
    assert run("evolve", *base, "--checkpoints", tmp_path) == 2
    assert "holds no epoch-NNNN.safetensors" in capsys.readouterr().err


def test_filters(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("filters", "--model", "tiny", "--data", photos, "--maps", "3", "--out", out) == 0
    assert "tiny: of 4 filters 3×3 at stride 1" in capsys.readouterr().out
    result = FilterComparison.load(out / "filters")
    assert result.names == ("tiny",) and result.filters[0].count == 5
    assert result.tops[0].layers == ("0", "3")


def test_filters_of_two_networks(photos, tmp_path, monkeypatch, capsys):
    load = zfcuda.models.load
    monkeypatch.setattr(zfcuda.models, "load", lambda spec: load("tiny"))
    arguments = ["--model", "tiny", "--against", "other", "--data", photos, "--maps", "3"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 0
    assert FilterComparison.load(tmp_path / "out" / "filters").names == ("tiny", "other")
    arguments[3] = "tiny"
    assert run("filters", *arguments, "--out", tmp_path / "out") == 2
    assert "it is the network of --model" in capsys.readouterr().err
    assert run("filters", *arguments, "--train", "--out", tmp_path / "out") == 2
    assert "leave --against" in capsys.readouterr().err


@pytest.mark.slow
def test_filters_of_two_networks_trained_alike(garments, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real models
    arguments = ["--train", "--data", garments, "--epochs", "1", "--maps", "4"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 0
    result = FilterComparison.load(tmp_path / "out" / "filters")
    assert [own.filters.shape[2] for own in result.filters] == [11, 7]
    assert [own.stride for own in result.filters] == [(4, 4), (2, 2)]


def test_longer_trainings_are_not_called_shorter(garments, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # the real models
    for name in ("epoch-0001", "epoch-0002"):
        row = Epoch(int(name[-1]), *[0.0] * 9, images=36)
        write_json(tmp_path / "out" / "coarse" / f"{name}.json", dataclasses.asdict(row))
    arguments = ["--train", "--data", garments, "--epochs", "1"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 2
    assert "coarse' holds a training of 2 epochs, more than 1" in capsys.readouterr().err
    assert run("filters", *arguments, "--limit", "-1", "--out", tmp_path / "out") == 2
    assert "--limit -1: expected at least 1" in capsys.readouterr().err


def test_filters_of_0_1_0_go_on_with_the_parts_that_were_drawn(tmp_path, monkeypatch):
    monkeypatch.undo()  # the real models
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (9, 9), (9 * i, 9, 9)).save(tmp_path / "photos" / name / f"{i}.png")
    drawn = []

    def trained(model, data, *_):
        drawn.append(data.drawn)
        raise ValueError("enough")

    monkeypatch.setattr("zfcuda.training.train", trained)
    arguments = ["--train", "--data", tmp_path / "photos"]
    write_json(tmp_path / "old/coarse/run.json", {"settings": {"classes": ["a", "b"]}})
    for out in ("old", "new"):
        assert run("filters", *arguments, "--out", tmp_path / out) == 2
    assert drawn == ["", "by class"]


def test_evolve_takes_epochs_only(tmp_path):
    for name in ("epoch-0001", "epoch-0007", "epoch-0001-old", ".epoch-0002.0123abcd"):
        (tmp_path / f"{name}.safetensors").touch()
    assert [*evolve._of_folder(tmp_path)] == ["1", "7"]


def test_pictures_keep_their_colours(photos, tmp_path, monkeypatch):
    """A network that takes blue first is shown in red, green, blue."""
    from zfcuda import figures
    from zfcuda.data import Preprocessing

    blue_first = Preprocessing(size=32, resize=None, channels="bgr")
    monkeypatch.setattr(zfcuda.models, "preprocessing", lambda *_: blue_first)
    for path in photos.glob("**/*.*"):
        Image.new("RGB", (40, 40), "red").save(path.with_suffix(".png"))
        if path.suffix != ".png":
            path.unlink()
    shown = {}
    draw = figures.top_activations

    def record(result, projections, patches, **settings):
        shown.update(patches)
        return draw(result, projections, patches, **settings)

    monkeypatch.setattr(figures, "top_activations", record)
    arguments = ["--model", "tiny", "--data", photos, "--layer", "4", "--out", tmp_path / "out"]
    assert run("top9", *arguments, "-k", "1") == 0
    assert np.allclose(shown["4"], [1, 0, 0], atol=1e-5)
