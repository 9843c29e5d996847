"""correspond, uncertainty, probe and ablate: what they write, of what, and how they end on bad
input."""

import json
import math

import pytest
import torch

import zfcuda.models
from zfcuda import cli
from zfcuda.results import AblationResult, CorrespondenceResult, ProbeResult, UncertaintyResult

pytestmark = pytest.mark.usefixtures("tiny")
CLASSES = ("cat", "fox")


def run(*arguments):
    return cli.main([*map(str, arguments), "--quiet", "--device", "cpu"])


def written(folder, stem):
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    assert names == [f"{stem}.{suffix}" for suffix in ("json", "npz", "png")]
    about = json.loads((folder / f"{stem}.json").read_text())
    return about["entry"], about["provenance"]


@pytest.fixture
def photos(picture_folder):
    """A folder of pictures: two of the network's classes, twenty of each, one of them broken."""
    folder = picture_folder(dict.fromkeys(CLASSES, 20), "photos")
    (folder / "fox" / "0.png").write_bytes(b"\x89PNG not really")
    return folder


def test_correspond_on_faces(tmp_path, capsys):
    pytest.importorskip("skimage")
    out = tmp_path / "out"
    assert run("correspond", "--model", "tiny", "--faces", 3, "--places", 2, "--out", out) == 0
    entry, about = written(out, "faces-correspond")
    assert entry["figure"] == "paper table 1" and about["seed"] == 0
    result = CorrespondenceResult.load(out / "faces-correspond")
    assert result.parts[:3] == ("right eye", "left eye", "nose")
    assert result.controls == result.parts[3:] and len(result.controls) == 2
    assert result.layers == ("2", "5")  # an early and a late one
    # A face of 25 pixels fills the input of 32: 7 x 5 pixels are 9 x 6 or 7.
    y0, x0, y1, x1 = result.boxes["right eye"][0, 0].tolist()
    assert (x0, x1) == (4, 13) and (y0, y1) == (8, 14)
    assert result.boxes["left eye"][0, 0, 1] == 14 and result.boxes["nose"][0, 0, 0] == 14
    own, same = (result.boxes[control] for control in result.controls)
    assert own.shape == same.shape == (2, 3, 4)
    assert (same == same[:, :1]).all() and not (own == own[:, :1]).all()
    printed = capsys.readouterr().out
    assert result.table() in printed and "more consistent than “random" in entry["text"]


def test_correspond_on_pictures_of_ones_own(photo, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        photo(name)  # 48 x 40 pixels, of which the network sees 40 x 40, at 32
    table = tmp_path / "dogs.csv"
    rows = ["image, part, left, top, right, bottom"]
    rows += ["a.png, nose, 4, 0, 14, 10", "a.png, ear, 24, 20, 44, 40"]
    rows += ["b.png, nose, 14, 10, 24, 20", "b.png, ear, 0, 0, 24, 20"]
    table.write_text("\n".join(rows))
    out = tmp_path / "out"
    arguments = ["correspond", "--model", "tiny", "--parts", table, "--out", out, "--layer", "0"]
    assert run(*arguments, "--places", 1) == 0
    result = CorrespondenceResult.load(out / "dogs-correspond")
    assert result.layers == ("0",) and result.parts[:2] == ("nose", "ear")
    assert result.boxes["nose"][0].tolist() == [[0, 0, 8, 8], [8, 8, 16, 16]]
    assert result.boxes["ear"][0].tolist() == [[16, 16, 32, 32], [0, 0, 16, 16]]
    # The jackknife's error is unknown: nothing is said to be no more consistent.
    printed = capsys.readouterr().out
    assert "Two images do not tell" in printed and "more consistent than" not in printed

    for line, problem in (
        ("b.png, tail, 0, 0, 9, 9", "do not have the same parts"),
        ("c.png, nose, 0, 0, 9, 9", "c.png"),
        ("b.png, ear, x, 0, 9, 9", "is not a table of parts"),
        ("b.png, ear, inf, 0, 9, 9", "is not finite"),
        ("b.png, ear, 9, 9, 9, 9", "ear of b.png"),
    ):
        table.write_text("\n".join([*rows, line]))
        assert run(*arguments) == 2
        assert problem in capsys.readouterr().err
    table.write_text("picture, part\na.png, nose")
    assert run(*arguments) == 2
    assert "expected the columns image, part, left" in capsys.readouterr().err


def test_uncertainty_finds_classes_by_their_names(photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["uncertainty", "--model", "tiny", "--data", photos, "--out", out]
    assert run(*arguments, "--part", "test", "--bins", 5) == 0
    entry, _ = written(out, "test-uncertainty")
    assert entry["figure"] == "talk, supplement"
    result = UncertaintyResult.load(out / "test-uncertainty")
    assert result.logits.shape == (3, 5) and result.bins == 5
    assert set(result.labels.tolist()) <= {
        zfcuda.models.class_names("tiny").index(name) for name in CLASSES
    }
    printed = capsys.readouterr()
    assert "0.png" in printed.err and f"{result.accuracy:.2%} right" in printed.out
    assert run(*arguments, "--limit", 2) == 0
    assert len(UncertaintyResult.load(out / "validation-uncertainty").labels) == 2


def test_uncertainty_without_a_data_set(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("zfcuda.data.fashion.FOLDER", tmp_path / "nowhere")
    wide = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 10)
    ).eval()
    monkeypatch.setattr(zfcuda.models, "load", lambda spec: wide)
    monkeypatch.setattr(zfcuda.models, "class_names", lambda *_: None)
    assert run("uncertainty", "--model", "tiny", "--out", tmp_path / "out") == 0
    assert "pictures that come with zfcuda" in capsys.readouterr().out
    assert run("probe", "--model", "tiny", "--out", tmp_path / "out") == 2
    assert "dataset-fashion-mnist" in capsys.readouterr().err
    monkeypatch.undo()
    assert run("uncertainty", "--data", "garments", "--limit", 12, "--out", tmp_path / "own") == 0
    assert "12 pictures that come with zfcuda" in capsys.readouterr().out


def test_probe(photos, tmp_path, capsys):
    pytest.importorskip("sklearn")
    out = tmp_path / "out"
    arguments = ["probe", "--model", "tiny", "--data", photos, "--size", 20, "--out", out]
    assert run(*arguments, "--limit", 24) == 0
    entry, _ = written(out, "layers-probe")
    assert entry["figure"] == "paper table 7"
    result = ProbeResult.load(out / "layers-probe")
    assert result.layers == ("input pixels", "2", "5") and result.class_names == CLASSES
    assert result.pictures == (24, 3, 3) and max(result.features) <= 20
    assert result.table() in capsys.readouterr().out
    assert run(*arguments, "--layer", "nope") == 2
    assert "no layer 'nope'" in capsys.readouterr().err


def test_ablate(idx_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["ablate", "--data", idx_folder(36, 5), "--epochs", 1, "--limit", 8, "--out", out]
    changes = ["--variant", "conv3=0,conv4=0", "--variant", "fc6=8,fc7=0"]
    assert run(*arguments, *changes) == 0
    entry, about = written(out, "ablation")
    assert entry["figure"] == "paper table 3" and about["settings"]["epochs"] == 1
    result = AblationResult.load(out / "ablation")
    assert result.variants == ("as it is", "without conv3, conv4", "without fc7; fc6: 8")
    assert result.pictures == (8, 3, 5) and result.test_error.shape == (3, 1)
    assert result.table() in capsys.readouterr().out
    assert (out / "without-fc7-fc6=8-seed0" / "weights.safetensors").is_file()
    # Other settings into the same folder: told, not mixed.
    assert run(*arguments[:3], "--epochs", 1, "--limit", 9, "--out", out, *changes) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.filterwarnings("ignore:the classifiers")
def test_probe_compares_with_the_network_on_its_own_classes_only(
    picture_folder, tmp_path, monkeypatch, known
):
    """As many other classes are not its own."""
    pytest.importorskip("sklearn")
    names = tuple("abcde")
    if known:
        monkeypatch.setattr(zfcuda.models, "class_names", lambda *_: names)
    folder = picture_folder(dict.fromkeys(names, 4))
    arguments = ["--model", "tiny", "--data", folder, "--size", 20, "--layer", "0"]
    assert run("probe", *arguments, "--out", tmp_path / "out") == 0
    result = ProbeResult.load(tmp_path / "out" / "layers-probe")
    assert math.isnan(result.network_accuracy) != known
