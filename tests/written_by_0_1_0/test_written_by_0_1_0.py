"""What zfcuda 0.1.0 wrote is read, and what it left half done goes on.

written.zip is of zfcuda 0.1.0 with torch 2.13.0 on a CPU; the script that made it, write.py, lay
here up to commit 35227c3. ``results`` holds a result of every kind; ``runs`` what functions and
commands had done when they were stopped, but for ``recorded``, which is complete; ``trainings`` a
whole one, two of four epochs, and one of an ablation's two networks; ``scripts`` what two scripts
had made; ``photos`` the commands' images; ``predicted`` what a command wrote.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from subjects import COMMANDS, LAYERS, RECIPE, SCRIPTS, ablated, moved, occluded, recorded, trained
from torch import Tensor
from written import KINDS, WRITTEN, assert_close

import zfcuda
from zfcuda import cli
from zfcuda.results import InvarianceSummary, OcclusionSummary
from zfcuda.results.stored import StoredActivations
from zfcuda.training import TrainingResult

HERE = Path(__file__).parent
# What it ran with: a run of other versions is another run.
THEN = {"zfcuda": "0.1.0", "torch": "2.13.0+cpu", "pillow": "13.0.0"}


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    with zipfile.ZipFile(WRITTEN) as file:
        file.extractall(folder)
    return folder


@pytest.fixture
def old(written, tmp_path, monkeypatch):
    """A copy to work in, as the working folder."""
    shutil.copytree(written, tmp_path / "old")
    shutil.copy(HERE / "subjects.py", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    torch.set_num_threads(1)
    return tmp_path / "old"


@pytest.fixture
def then(monkeypatch):
    """The versions of then."""
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda n: THEN.get(n) or version(n))
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(THEN["torch"]))
    monkeypatch.setattr(zfcuda, "__version__", THEN["zfcuda"])


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures of one pixel: what is drawn is not what is looked at here."""

    def savefig(_figure, file, **settings):
        Image.new("RGB", (1, 1)).save(file, settings["format"])

    monkeypatch.setattr(Figure, "savefig", savefig)
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda _figure: None)


# --- results --------------------------------------------------------------------------------------


def assert_holds(value, said, arrays):
    """``value`` has what a settings file and its arrays say; it may have more."""
    if isinstance(said, dict) and isinstance(said.get("array"), str):
        array = arrays[said["array"]]
        assert isinstance(value, Tensor) and str(value.dtype) == f"torch.{said['dtype']}"
        assert np.array_equal(value.numpy(), array, equal_nan=array.dtype.kind == "f")
    elif isinstance(said, dict) and isinstance(said.get("float"), str):
        assert str(value) == said["float"]
    elif isinstance(said, dict):
        for name, item in said.items():
            own = value[name] if isinstance(value, dict) else getattr(value, name)
            assert_holds(own, item, arrays)
    elif isinstance(said, list):
        assert len(value) == len(said)
        for own, item in zip(value, said, strict=True):
            assert_holds(own, item, arrays)
    else:
        assert value == said and type(value) is type(said)


def assert_loads(kind, stem):
    result = kind.load(stem)
    said = json.loads(stem.with_suffix(".json").read_text())["settings"]
    with np.load(stem.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert_holds(result, said, arrays)
    return result


def test_a_result_of_every_kind_is_there():
    assert len(KINDS) == 19


@pytest.mark.parametrize("name", KINDS)
def test_results_load_are_told_and_saved_again(written, tmp_path, name):
    kind = KINDS[name]
    result = assert_loads(kind, written / "results" / name)
    assert name in repr(result)
    result.save(tmp_path / "again")
    again = kind.load(tmp_path / "again")
    said = json.loads((written / "results" / f"{name}.json").read_text())["settings"]
    with np.load(written / "results" / f"{name}.npz", allow_pickle=False) as arrays:
        assert_holds(again, said, arrays)


@pytest.mark.parametrize("name", ["OcclusionResult", "OcclusionSummary", "UncertaintyResult"])
def test_results_are_drawn(written, name):
    assert KINDS[name].load(written / "results" / name).plot()


# --- runs over data sets --------------------------------------------------------------------------


def assert_same_results(folder, other, kind):
    """Every image's result; probabilities but for rounding, since exp is each machine's own."""
    stems = {path.relative_to(folder).with_suffix("") for path in folder.glob("images/*/[0-9]*")}
    assert stems == {
        path.relative_to(other).with_suffix("") for path in other.glob("images/*/[0-9]*")
    }
    for stem in stems:
        assert_close(kind.load(folder / stem), kind.load(other / stem))


def assert_same_maxima(folder, other):
    assert_close(StoredActivations.open(folder).result(), StoredActivations.open(other).result())
    assert (folder / "index.csv").read_text() == (other / "index.csv").read_text()


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("then")
def test_a_complete_recording_is_only_opened(old, tmp_path):
    before = times(old / "runs" / "recorded")
    stored = StoredActivations.open(old / "runs" / "recorded")
    assert stored.layers == tuple(LAYERS) and stored.count == 12 and not stored.skipped
    recorded(old / "runs" / "recorded")
    after = times(old / "runs" / "recorded")
    assert before.items() <= after.items()
    recorded(tmp_path / "new")
    assert_same_maxima(old / "runs" / "recorded", tmp_path / "new")


@pytest.mark.usefixtures("then")
@pytest.mark.parametrize("name", ["record-passing", "record-projecting"])
def test_a_stopped_recording_goes_on(old, tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What is done is not done again: 12 images would be read in the pass alone.
        recorded(old / "runs" / name, most=2 + 3 + 3 + 3 + 14)
    recorded(tmp_path / "new")
    assert_same_maxima(old / "runs" / name, tmp_path / "new")
    assert not (old / "runs" / name / "progress").exists()


@pytest.mark.usefixtures("then")
def test_a_stopped_occlusion_goes_on(old, tmp_path):
    folder = old / "runs" / "occlusion"
    before = times(folder / "images")
    complete = {path for path in before if path.with_suffix(".json") in before}
    summary = occluded(folder)
    after = times(folder / "images")
    assert all(after[path] == before[path] for path in complete)
    new = occluded(tmp_path / "new")
    assert_close(summary, new)
    assert_same_results(folder, tmp_path / "new", zfcuda.results.OcclusionResult)
    assert_loads(OcclusionSummary, folder / "summary")


@pytest.mark.usefixtures("then")
def test_a_stopped_invariance_goes_on(old, tmp_path):
    folder = old / "runs" / "motion"
    assert_close(moved(folder), moved(tmp_path / "new"))
    assert_same_results(folder, tmp_path / "new", InvarianceSummary)


@pytest.mark.usefixtures("then", "undrawn")
@pytest.mark.parametrize("command", ["occlude", "invariance", "top9"])
def test_stopped_commands_go_on(old, capsys, command):
    folder = next(path.parent for path in (old / "runs" / command).rglob("*.json")
                  if path.name in ("settings.json", "manifest.json"))  # fmt: skip
    there = {path: time for path, time in times(folder).items() if path.parent.name == "0000"}
    assert cli.main(COMMANDS[command].split()) == 0, capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err
    unfinished = "0000002"  # its second file was missing
    after = times(folder)
    assert all(after[path] == time for path, time in there.items() if unfinished not in path.name)
    shutil.rmtree(old / "whole", ignore_errors=True)
    shutil.move(folder, old / "whole")
    assert cli.main(COMMANDS[command].split()) == 0
    if command == "top9":
        assert_same_maxima(old / "whole", folder)
    else:
        kind = {"occlude": OcclusionSummary, "invariance": InvarianceSummary}[command]
        assert_close(kind.load(old / "whole" / "summary"), kind.load(folder / "summary"))


def test_runs_of_another_version_are_refused_in_one_sentence(old, then, monkeypatch, capsys):
    newer = torch.torch_version.TorchVersion("2.99.0+cpu")
    monkeypatch.setattr(torch, "__version__", newer)
    monkeypatch.setitem(THEN, "torch", str(newer))
    for call, name in ((occluded, "occlusion"), (moved, "motion"), (recorded, "record-passing")):
        with pytest.raises(ValueError, match=r"holds .*(run|settings).*2\.13\.0.*") as error:
            call(old / "runs" / name)
        assert "\n" not in str(error.value)
    for command in ("occlude", "invariance", "top9"):
        assert cli.main(COMMANDS[command].split()) == 2
        printed = capsys.readouterr().err
        assert "2.99.0+cpu" in printed and "Traceback" not in printed


# --- trainings ------------------------------------------------------------------------------------


def test_a_whole_training_is_returned(old):
    folder = old / "trainings" / "whole"
    before = times(folder)
    result = trained(folder)
    assert_close(result, assert_loads(TrainingResult, folder / "training"))
    for path, time in times(folder).items():
        if path.name.startswith("epoch-"):
            assert before[path] == time


def test_a_stopped_training_goes_on(old, tmp_path):
    """Its numbers are not exact ones: sums are each machine's own."""
    folder = old / "trainings" / "half"
    before = times(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = trained(folder)
    assert len(result.epoch) == RECIPE.epochs
    for name in ("epoch-0001", "epoch-0002"):
        for suffix in (".json", ".safetensors"):
            path = folder / f"{name}{suffix}"
            assert times(folder)[path] == before[path]
    new = trained(tmp_path / "new")
    assert result.best == new.best
    for name in ("validation_loss", "training_loss"):
        assert np.allclose(getattr(result, name), getattr(new, name), rtol=1e-3, atol=1e-3)


def test_a_stopped_ablation_goes_on(old, tmp_path):
    folder = old / "trainings" / "ablation"
    before = times(folder / "as-it-is-seed0")
    result = ablated(folder)
    after = times(folder / "as-it-is-seed0")
    assert all(after[p] == time for p, time in before.items() if p.name.startswith("epoch-"))
    new = ablated(tmp_path / "new")
    assert np.allclose(result.test_error, new.test_error, rtol=0, atol=0.1)


# --- what scripts and commands left ---------------------------------------------------------------


@pytest.mark.usefixtures("then", "undrawn")
@pytest.mark.parametrize("name", SCRIPTS)
def test_stopped_scripts_go_on(old, script, monkeypatch, capsys, name):
    module = script(name)
    monkeypatch.setattr(module, "_PICTURES", 2, raising=False)  # one is there, one is made
    if name == "folder_figures":
        for photo in ("2.png", "3.png"):
            (old / "photos" / photo).unlink()
    assert module.main(SCRIPTS[name].split()) == 0
    assert "1 done, 1 skipped, 0 failed" in capsys.readouterr().out


def test_a_gallery_of_what_is_there(old, capsys):
    assert cli.main(["gallery", "predicted"]) == 0, capsys.readouterr().err
    page = next((old / "predicted").glob("*.html")).read_text()
    assert "0-predict.png" in page and "Prediction" in page
