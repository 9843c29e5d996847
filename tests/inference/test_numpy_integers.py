"""NumPy's integers wherever an int is taken; bools and floats are none."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import zfcuda
import zfcuda.nn
from zfcuda import ops
from zfcuda.graph import trace
from zfcuda.training import Recipe

MODEL = nn.Sequential(
    *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
).eval()
X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(16, 16, dtype=torch.bool)
BYTES = 10**8
GRID = {"size": 8, "stride": 8}

# Each takes a kind of integer.
CALLS = {
    "channel": lambda i: zfcuda.deconv(MODEL, X, "2", channel=i(2)),
    "channels": lambda i: zfcuda.deconv(MODEL, X, "2", channel=[i(2), i(1), i(0)]),
    "position": lambda i: zfcuda.deconv(MODEL, X, "2", channel=i(2), position=(i(1), i(2))),
    "k": lambda i: zfcuda.projections(MODEL, X, ["2", "4"], k=i(2)),
    "unit": lambda i: zfcuda.project(MODEL, X, "2", units=(i(1), i(2), i(3))),
    "units": lambda i: zfcuda.project(MODEL, X, "2", units=[(i(1), i(2), i(3)), (0, 0, i(0))]),
    "logit": lambda i: zfcuda.project(MODEL, X, "7", units=i(1)),
    "top k": lambda i: zfcuda.project(MODEL, X, "2", units=("top", i(2))),
    "maps": lambda i: zfcuda.project(MODEL, X, "2", units=("map", [i(2), i(1)])),
    "occluder": lambda i: zfcuda.occlusion(MODEL, X, size=i(8), stride=i(8), target=i(1)),
    "occluders": lambda i: zfcuda.occlusion(
        MODEL, X, [i(1), i(0), i(2)], (i(8), i(4)), (i(8), i(4)), classes=[i(0), i(1)]
    ),
    "max_memory": lambda i: zfcuda.occlusion(MODEL, X, **GRID, max_memory=np.int64(BYTES)),
    "plan": lambda i: zfcuda.plan(MODEL, X, i(8), i(8)) and None,
    "rotation": lambda i: zfcuda.rotation(MODEL, X, [i(0), i(90)], target=i(1)),
    "translation": lambda i: zfcuda.translation(MODEL, X, [(i(0), i(1))], target=i(1)),
    "background": lambda i: zfcuda.background_effect(MODEL, X[:1], MASK, ["2"], target=i(1)),
    "top": lambda i: zfcuda.predict(MODEL, X).top(i(2)),
    "top activations": lambda i: zfcuda.top_activations(
        MODEL, X, ["2"], i(2), maps=i(3), batch=i(2), workers=i(0), max_memory=np.int64(BYTES)
    ),
    "maps by number": lambda i: zfcuda.top_activations(MODEL, X, ["2"], maps=[i(3), i(1)], k=1),
    "evolution": lambda i: zfcuda.evolution([("a", MODEL)], X, ["2"], maps=i(2), batch=i(2)),
    "filters": lambda i: zfcuda.first_layer_filters(MODEL, X, batch=i(2)),
    "diagram": lambda i: zfcuda.diagram_of(MODEL, X[:1], "2", depth=i(2)),
    "patch": lambda i: zfcuda.project(MODEL, X, "2").full(i(1)),
    "classes": lambda i: zfcuda.models.zfnet_small(num_classes=i(4)) and None,
}


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_calls(call, kind, tmp_path):
    result, expected = call(kind), call(int)
    if hasattr(result, "save"):
        result.save(tmp_path / "result")
        type(result).load(tmp_path / "result")
    if isinstance(result, torch.Tensor):
        assert result.shape == expected.shape and torch.equal(result, expected)


def test_runs_and_trainings(tmp_path):
    """What is written as JSON, and compared with it by the call that goes on."""
    i = np.int64
    for kind in (i, int):
        zfcuda.occlusion_over(
            *(MODEL, X, tmp_path / "occlusion"),
            target=kind(1),
            size=kind(8),
            stride=kind(8),
            classes=[kind(1)],
            workers=kind(0),
        )
        angles = {"rotation": [kind(0), kind(90)]}
        zfcuda.invariance_over(
            MODEL, X, tmp_path / "invariance", ["2"], kind(1), transformations=angles
        )
        zfcuda.record_activations(
            tmp_path / "top", MODEL, X, ["2"], kind(2), kind(3), batch=kind(2), every=kind(1)
        )
    assert Recipe(epochs=i(2), batch=i(4), seed=i(1)) == Recipe(epochs=2, batch=4, seed=1)
    assert type(Recipe(seed=i(1)).seed) is int


@pytest.mark.parametrize("kind", [nn, zfcuda.nn], ids=["torch.nn", "zfcuda.nn"])
@pytest.mark.parametrize("window", [(2,), (2, 2), (3, 2, 1, 1)], ids=str)
def test_modules_made_with_them_keep_their_cones(kind, window):
    pool = kind.MaxPool2d(*map(np.int64, window))
    norm = kind.LocalResponseNorm(np.int64(3))
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, np.int64(3), np.int64(1), np.int64(1)), nn.ReLU(), pool, norm),
        *(nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)),
    ).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(model, X)
        zfcuda.occlusion(model, X, **GRID, method="cone")
        zfcuda.deconv(model, X, "4")


def test_ops():
    i = np.int64
    y, switches = ops.max_pool2d(X, 2)
    assert torch.equal(ops.max_pool2d(X, i(2), i(2), i(0), i(1))[0], y)
    assert torch.equal(ops.max_pool2d(X, (i(2), 2), [i(2), i(2)], (i(0),))[0], y)
    size = (i(16), i(16))
    back = ops.max_unpool2d(y, switches, i(2), i(2), i(0), i(1), size)
    assert torch.equal(back, ops.max_unpool2d(y, switches, 2, output_size=(16, 16)))
    ops.local_response_norm(X, i(3), i(1), i(1), i(1))
    ops.switches_to_indices(switches, i(2), input_size=size)
    window = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]])
    pixels, out = X.permute(0, 2, 3, 1), torch.zeros(1, 3)
    ops.gather_windows(pixels, [], window, out, i(1), i(0), i(0))
    ops.pool_windows(pixels, [], window, out, i(1), i(2), i(2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ops.max_pool2d(X, 2.0),
        lambda: ops.max_pool2d(X, np.float32(2)),
        lambda: ops.max_pool2d(X, np.bool_(True)),
        lambda: ops.max_pool2d(X, 2, np.float64(2)),
        lambda: zfcuda.deconv(MODEL, X, "2", channel=True),
        lambda: zfcuda.deconv(MODEL, X, "2", channel=np.bool_(True)),
        lambda: zfcuda.deconv(MODEL, X, "2", channel=np.float32(1)),
        lambda: zfcuda.project(MODEL, X, "2", units=[(1.0, 0.0, 0.0)]),
        lambda: zfcuda.occlusion(MODEL, X, **GRID, target=np.float64(1)),
        lambda: zfcuda.occlusion(MODEL, X, size=8, stride=np.bool_(True)),
        lambda: zfcuda.top_activations(MODEL, X, ["2"], k=np.float64(2)),
        lambda: zfcuda.top_activations(MODEL, X, ["2"], batch=2.0),
    ],
)
def test_others_are_refused(call):
    with pytest.raises((TypeError, ValueError)):
        call()
