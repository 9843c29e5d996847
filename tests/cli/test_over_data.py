"""top9, evolve and filters: what they write, and from which images."""

import dataclasses
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import zfcuda.models
from zfcuda import StoredActivations, cli
from zfcuda.cli.commands import evolve, top9
from zfcuda.report.maps_page import stored_folders, write_maps_page
from zfcuda.results import EvolutionResult, FilterComparison, TopActivations
from zfcuda.storage.files import read_json, write_json
from zfcuda.training import Epoch

pytestmark = pytest.mark.usefixtures("tiny")


def run(*arguments):
    return cli.main([*map(str, arguments), "--quiet", "--device", "cpu"])


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
def test_top9_over_idx_files(idx_folder, tmp_path, part, count):
    arguments = ["--model", "tiny", "--layer", "4", "--maps", "all", "--out", tmp_path / "out"]
    assert run("top9", *arguments, "--data", idx_folder(36, 5), "--part", part) == 0
    result = TopActivations.load(tmp_path / "out" / "top9")
    assert result.count == count and len(result.channels["4"]) == 6


def test_evolve(photos, tmp_path):
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


def test_filters(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("filters", "--model", "tiny", "--data", photos, "--maps", "3", "--out", out) == 0
    assert "tiny: of 4 filters 3×3 at stride 1" in capsys.readouterr().out
    result = FilterComparison.load(out / "filters")
    assert result.names == ("tiny",) and result.filters[0].count == 5
    assert result.tops[0].layers == ("0", "3")


def test_filters_of_two_networks(photos, tmp_path, monkeypatch):
    load = zfcuda.models.load
    monkeypatch.setattr(zfcuda.models, "load", lambda spec: load("tiny"))
    arguments = ["--model", "tiny", "--against", "other", "--data", photos, "--maps", "3"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 0
    assert FilterComparison.load(tmp_path / "out" / "filters").names == ("tiny", "other")


@pytest.mark.slow
def test_filters_of_two_networks_trained_alike(idx_folder, tmp_path, monkeypatch):
    monkeypatch.undo()  # the real models
    arguments = ["--train", "--data", idx_folder(36, 5), "--epochs", "1", "--maps", "4"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 0
    result = FilterComparison.load(tmp_path / "out" / "filters")
    assert [own.filters.shape[2] for own in result.filters] == [11, 7]
    assert [own.stride for own in result.filters] == [(4, 4), (2, 2)]


def test_longer_trainings_are_not_called_shorter(idx_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # the real models
    for name in ("epoch-0001", "epoch-0002"):
        row = Epoch(int(name[-1]), *[0.0] * 9, images=36)
        write_json(tmp_path / "out" / "coarse" / f"{name}.json", dataclasses.asdict(row))
    arguments = ["--train", "--data", idx_folder(36, 5), "--epochs", "1"]
    assert run("filters", *arguments, "--out", tmp_path / "out") == 2
    assert "coarse' holds a training of 2 epochs, more than 1" in capsys.readouterr().err
    assert run("filters", *arguments, "--limit", "-1", "--out", tmp_path / "out") == 2
    assert "--limit -1: expected at least 1" in capsys.readouterr().err


def test_filters_of_0_1_0_go_on_with_the_parts_that_were_drawn(
    picture_folder, tmp_path, monkeypatch
):
    monkeypatch.undo()  # the real models
    drawn = []

    def trained(model, data, *_):
        drawn.append(data.drawn)
        raise ValueError("enough")

    monkeypatch.setattr("zfcuda.training.train", trained)
    arguments = ["--train", "--data", picture_folder({"a": 9, "b": 9})]
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


# --- top9 --store and the page of what it stores -------------------------------------------------


@pytest.fixture
def store(photos, tmp_path):
    (photos / "dog" / "0.png").rename(photos / "c & <d>.png")
    arguments = ["--model", "tiny", "--data", photos, "--layer", "1", "--layer", "4"]
    return ["top9", *arguments, "--maps", "3", "-k", "4", "--store", tmp_path / "run"]


def test_store(store, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(top9, "_LONG", 0.0)
    assert run(*store) == 0
    printed = capsys.readouterr()
    assert "images/s, processes: 1; the network alone" in printed.out
    assert re.search(r"4: 6 maps, 3 projected, 0\.\d\d MB each", printed.out)
    assert str(tmp_path / "run" / "index.csv") in printed.out
    assert "skipped" in printed.err and "broken.png" in printed.err
    stored = StoredActivations.open(tmp_path / "run")
    assert stored.count == 5 and stored.layers == ("1", "4") and stored.k == 4
    assert stored.manifest["about"]["provenance"]["model"] == "tiny"
    assert run(*store) == 0, "a complete run is opened"
    store[store.index("-k") + 1] = "5"
    assert run(*store) == 2
    assert "other settings: k 4 there, 5 here" in capsys.readouterr().err


def test_several_processes_need_a_store(photos, monkeypatch, capsys):
    monkeypatch.setattr("zfcuda.storage.ranks._by_environment", lambda: None)
    monkeypatch.setattr("zfcuda.cli.commands.top9.one_result", lambda *_: pytest.fail("ran"))
    two = nullcontext(SimpleNamespace(world=2))
    monkeypatch.setattr("zfcuda.storage.ranks.from_environment", lambda device: two)
    assert run("top9", "--model", "tiny", "--data", photos, "--layer", "4") == 2
    assert "several processes need --store DIR" in capsys.readouterr().err


def test_page(store, tmp_path, capsys):
    assert run(*store) == 0
    capsys.readouterr()
    assert cli.main(["gallery", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    page = tmp_path / "run" / "maps.html"
    assert "6 maps" in printed and f"open {page}" in printed
    text = page.read_text()
    sheets = re.findall(r'<img src="([^"]+)" width="(\d+)" height="(\d+)" loading="lazy"', text)
    assert len(sheets) == 6 and all((tmp_path / "run" / name).is_file() for name, *_ in sheets)
    assert "c &amp; &lt;d&gt;.png" in text and "<d>" not in text
    assert text.count("<section") == 2 and 'data-map="' in text
    assert not re.search(r'(src|href)="(https?:)?//', text), "nothing is fetched from elsewhere"
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.webp")}
    write_maps_page(tmp_path / "run")
    assert made == {path: path.stat().st_mtime_ns for path in made}, "sheets are made once"


def test_what_is_no_manifest_has_no_page(tmp_path):
    for number, text in enumerate(("", "[]", "{", "[" * 100_000, '{"kind": 1}', "\0")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "manifest.json").write_text(text)
    assert stored_folders(tmp_path) == []


def test_runs_that_are_not_done_have_no_page(store, tmp_path):
    assert run(*store) == 0
    assert stored_folders(tmp_path) == [tmp_path / "run"]
    path = tmp_path / "run" / "manifest.json"
    write_json(path, read_json(path) | {"complete": False})
    assert stored_folders(tmp_path) == []
    with pytest.raises(ValueError, match="is not done"):
        write_maps_page(tmp_path / "run")
    path.write_text("{}")
    with pytest.raises(ValueError, match="expected 'strongest activations'"):
        write_maps_page(tmp_path / "run")


@pytest.mark.slow
def test_torchrun(photos, tmp_path):
    """The command under torchrun, with a network that comes with the package."""
    command = ["-m", "zfcuda", "top9", "--model", "zfnet_small", "--data", photos, "--maps", "2"]
    command += ["--batch", "1", "--device", "cpu", "--quiet", "--store"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    alone = [sys.executable, *map(str, command), str(tmp_path / "one")]
    subprocess.run(alone, check=True, env=environment)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", *map(str, command), str(tmp_path / "two")]
    subprocess.run(torchrun, check=True, env=environment)
    for path in [*(tmp_path / "one").glob("layers/*"), tmp_path / "one" / "index.csv"]:
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert other.read_bytes() == path.read_bytes()
