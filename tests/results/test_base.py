"""Results survive saving and loading bit for bit, and bad files are refused with a reason."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
from typing import Annotated

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from written import assert_same

import zfcuda
from zfcuda.experiments.deconvnet.projecting import projections
from zfcuda.results import OcclusionResult, Predictions, Result
from zfcuda.storage.files import atomic_path

MAKERS = {
    "predictions": lambda net, x: zfcuda.predict(net, x),
    "projections": lambda net, x: projections(net, x, ["tail", "classes"], k=2),
    "occlusion": lambda net, x: zfcuda.occlusion(net, x, size=8, stride=(8, 5), layers="tail"),
    "occlusion by an image": lambda net, x: zfcuda.occlusion(net, x, size=8, fill=x[0]),
    "occlusion by nan": lambda net, x: zfcuda.occlusion(net, x, 0, size=8, fill=math.nan),
    "rotation": lambda net, x: zfcuda.rotation(net, x, [0, 0.1, 30], layers=["tail"], fill=0.1),
    "translation": lambda net, x: zfcuda.translation(net, x, [(1, 2)], fill=[0.1, 0.2, 0.3]),
    "background": lambda net, x: zfcuda.background_effect(
        net, x[:1], torch.rand(16, 18), "tail", fills={"grün": 0.5}
    ),
    "study": lambda net, x: zfcuda.invariance_study(
        net, x, "tail", transformations={"scale": [1, 2], "rotation": [3]}
    ),
    "patches": lambda net, x: zfcuda.project(net, x, ["features.0", "tail"]),
    "top": lambda net, x: zfcuda.top_activations(net, x, ["features.0", "tail"], k=3, maps=2),
    "evolution": lambda net, x: zfcuda.evolution({"1": net, "2": net}, x, "tail"),
    "diagram": lambda net, x: zfcuda.diagram_of(net, x[:1], "features.2"),
    "diagram without a pool": lambda net, x: zfcuda.diagram_of(net, x[:1], "features.1"),
    "filters": lambda net, x: zfcuda.first_layer_filters(net, x),
    "comparison": lambda net, x: zfcuda.compare_filters({"a": net, "b": net}, x, maps=2),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS.keys())
def test_every_result_is_saved_loaded_and_drawn(make, x, tmp_path, maker):
    result = maker(make("VGGLike"), x)
    result.save(tmp_path / "new folder" / "result.v1")  # the dot is part of the name
    folder = tmp_path / "new folder"
    assert sorted(os.listdir(folder)) == ["result.v1.json", "result.v1.npz"]
    for name in ("result.v1", "result.v1.npz", "result.v1.json"):
        assert_same(type(result).load(folder / name), result)
    assert isinstance(result.plot(), Figure)
    header = json.loads((folder / "result.v1.json").read_text(encoding="utf-8"))
    assert header["kind"] == type(result).__name__
    with np.load(folder / "result.v1.npz", allow_pickle=False) as arrays:
        assert all(array.dtype != object for array in arrays.values())


def test_every_dtype_round_trips(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        result = Predictions(torch.tensor([[0.1, math.inf, math.nan, -0.0]], dtype=dtype))
        result.save(tmp_path / "p")
        assert_same(Predictions.load(tmp_path / "p"), result)


def test_results_do_not_change_with_the_users_tensors(make, x):
    fill, values = torch.ones(3, dtype=torch.float64), torch.tensor([1.0, 2.0]).double()
    result = zfcuda.scaling(make("VGGLike"), x, values, fill=fill)
    fill.zero_()
    values.zero_()
    assert result.fill.tolist() == [1, 1, 1]
    assert result.values.tolist() == [1, 2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.fill = 0.0


def test_wrong_files_are_refused(tmp_path):
    Predictions(torch.zeros(2, 3)).save(tmp_path / "p")
    with pytest.raises(ValueError, match=r"p\.json holds a Predictions, not a OcclusionResult"):
        OcclusionResult.load(tmp_path / "p")
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path / "absent")

    header = json.loads((tmp_path / "p.json").read_text())
    changed = {**header, "settings": {**header["settings"], "outputs": "other"}}
    (tmp_path / "p.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"p\.json is damaged: its settings are not what was writ"):
        Predictions.load(tmp_path / "p")
    del header["settings_sha256"]
    for change, message in (
        ({"format": 99}, "has file format 99, this zfcuda reads 1"),
        ({"settings": {"logits": [1]}}, "does not hold a Predictions"),
        ({"settings": {}}, "does not hold a Predictions"),
        ({"settings": {"logits": {"array": "other", "dtype": "float32", "shape": []}}}, "other"),
    ):
        (tmp_path / "p.json").write_text(json.dumps({**header, **change}))
        with pytest.raises(ValueError, match=message):
            Predictions.load(tmp_path / "p")
    (tmp_path / "p.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"p\.json is not the settings file of a zfcuda result"):
        Predictions.load(tmp_path / "p")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    Predictions(torch.zeros(2, 3)).save(tmp_path / "a")
    Predictions(torch.ones(2, 3)).save(tmp_path / "b")
    os.replace(tmp_path / "a.npz", tmp_path / "b.npz")
    with pytest.raises(ValueError, match="damaged or was not written together"):
        Predictions.load(tmp_path / "b")


def test_a_pickle_is_never_loaded(tmp_path):
    """An object array inside the npz, with a settings file that vouches for it."""
    import hashlib

    np.savez(tmp_path / "p.npz", logits=np.array([{"a": 1}], dtype=object))
    digest = hashlib.sha256((tmp_path / "p.npz").read_bytes()).hexdigest()
    entry = {"array": "logits", "dtype": "float32", "shape": [1]}
    header = {
        "kind": "Predictions",
        "format": 1,
        "arrays": {"file": "p.npz", "sha256": digest},
        "settings": {"logits": entry},
    }
    (tmp_path / "p.json").write_text(json.dumps(header))
    with pytest.raises(ValueError, match=r"should be float32 \[1\], got object \[1\]"):
        Predictions.load(tmp_path / "p")


def test_shapes_must_fit_each_other(make, x):
    result = zfcuda.occlusion(make("VGGLike"), x, size=8, stride=8)
    with pytest.raises(ValueError, match=r"logits must have shape \[\*, 4, \*\], got \[2, 6, 6\]"):
        dataclasses.replace(result, grid=(2, 2))
    with pytest.raises(ValueError, match=r"target must have shape \[2\], got \[1\]"):
        dataclasses.replace(result, target=result.target[:1])
    with pytest.raises(ValueError, match="score must be 'logit' or 'probability', got 'loss'"):
        dataclasses.replace(result, score="loss")


@dataclasses.dataclass(frozen=True, eq=False)
class Shaped(Result):
    layers: tuple[str, ...]
    maps: Annotated[dict[str, torch.Tensor], "layers: N M"]
    means: Annotated[dict[str, torch.Tensor], "M"]
    images: Annotated[torch.Tensor, "N 3"]
    best: Annotated[torch.Tensor | None, "N"] = None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, None, ""),
        ({"layers": ("a",), "maps": {"a": torch.ones(2, 5)}}, None, ""),
        (
            {"images": torch.ones(2, 4)},
            ValueError,
            r"images must have .* \[\*, 3\], got \[2, 4\]",
        ),
        ({"images": torch.ones(1, 3)}, ValueError, r"maps\['a'\] .* \[1, \*\], got \[2, 5\]"),
        ({"best": torch.ones(3)}, ValueError, r"best must have shape \[2\], got \[3\]"),
        ({"means": {"b": torch.ones(5)}}, ValueError, r"means\['b'\] .* \[6\], got \[5\]"),
        ({"layers": ("a", "c")}, KeyError, "c"),
    ],
)
def test_annotated_shapes(change, error, message):
    """A letter is one length in all fields; one that only dicts have, a length for each name."""
    fields = {
        "layers": ("a", "b"),
        "maps": {"a": torch.ones(2, 5), "b": torch.ones(2, 6)},
        "means": {"b": torch.ones(6)},
        "images": torch.ones(2, 3),
    }
    with pytest.raises(error, match=message) if error else contextlib.nullcontext():
        Shaped(**{**fields, **change})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write into the folder .*file"):
        Predictions(torch.zeros(1, 2)).save(tmp_path / "file" / "p")


def test_atomic_path_leaves_nothing_behind(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        assert temporary.suffix == ".csv" and temporary.parent == tmp_path
        temporary.write_text("half of the new")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["numbers.csv"]


def test_atomic_path_names_the_file_that_cannot_be_written(tmp_path):
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(OSError, match=r"cannot write '.*folder' \(it is a folder\)"),
        atomic_path(tmp_path / "folder"),
    ):
        pytest.fail("computed before")
    with (
        pytest.raises(OSError, match=r"cannot write '.*a\.npz' \(No space left"),
        atomic_path(tmp_path / "a.npz"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with atomic_path(tmp_path / ("x" * 250 + ".json")) as temporary:
        temporary.write_text("a name as long as the file system takes")
    assert sorted(map(len, os.listdir(tmp_path))) == [6, 255]


def test_a_file_that_fails_leaves_no_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "numbers.csv"
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), atomic_path(path):
            raise error
        assert os.listdir(tmp_path) == []
    with atomic_path(path) as temporary:
        temporary.write_text("1")
    with pytest.raises(ValueError), atomic_path(path):
        raise ValueError
    assert path.read_text() == "1"


def test_a_result_prints_shapes_not_numbers():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(400, 7))
    result = zfcuda.occlusion(net, torch.rand(1, 3, 12, 12), size=4, stride=4, layers="0")
    text = repr(result)
    assert text.startswith("OcclusionResult(logits=float32 [1, 9, 7], ")
    assert "boxes=int64 [9, 4]" in text and "size=(4, 4)" in text and len(text) < 1000
    assert "LayerSums(layer='0'" in text and "sums=float32 [1, 9]" in text
