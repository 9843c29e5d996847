"""Projections under autocast: by cones, as by a backward pass under the same autocast."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import ZOO, Model, Normed

import zfcuda
from zfcuda.experiments.deconvnet import engines

# A number of bfloat16 has eight bits, and a signal is rounded at every call.
ROUNDING = 3e-2

# torch's contrast normalisation is not recognised with casts between its calls.
CONES = [kind for kind in ZOO if kind is not Normed]
CAST = torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 24, 28)


@pytest.fixture
def by_autograd(monkeypatch):
    """:func:`zfcuda.deconv` without cones."""

    def run(*args, **named):
        with monkeypatch.context() as patch:
            patch.setattr(engines, "followed", lambda *_: (None, []))
            return zfcuda.deconv(*args, **named)

    return run


@pytest.fixture
def only_cones(monkeypatch):
    """:func:`zfcuda.deconv` that fails where cones do not lead down."""

    def run(*args, **named):
        with monkeypatch.context() as patch:
            patch.setattr(engines, "_by_autograd", None)
            return zfcuda.deconv(*args, **named)

    return run


def distance(a: Tensor, b: Tensor) -> float:
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
@pytest.mark.parametrize("kind", CONES, ids=lambda kind: kind.__name__)
def test_cones_are_the_backward_pass(kind, rule, x, only_cones, by_autograd):
    torch.manual_seed(0)
    net = kind().eval().float()
    arguments = (net, x, "tail", 1, (2, 2))
    with CAST:
        found = only_cones(*arguments, seed=1.0, rule=rule)
        expected = by_autograd(*arguments, seed=1.0, rule=rule)
    assert found.dtype == expected.dtype == torch.float32
    assert distance(found, expected) < ROUNDING
    # What autocast itself changes is there: this is no float32 run.
    assert distance(found, only_cones(*arguments, seed=1.0, rule=rule)) > 1e-4


def large() -> nn.Module:
    """With weights that are too many to be compared at each call."""
    layers = {"stem": nn.Conv2d(3, 96, 3), "tail": nn.Conv2d(96, 80, 3)}
    return Model(lambda m, x: m.tail(m.stem(x).relu()), **layers).eval()


@pytest.mark.parametrize("kept", [True, False])
def test_a_known_model_with_other_weights(kept, x, only_cones, by_autograd):
    """autocast keeps the casts of weights until it ends, so that each call has one of its own."""
    torch.manual_seed(0)
    net, arguments = large(), ("tail", 1, (2, 2))
    cast = partial(torch.autocast, "cpu", torch.bfloat16, cache_enabled=kept)
    assert net.tail.weight.numel() > 2**16
    with cast():
        only_cones(net, x, *arguments)
    # Not even torch notices the change.
    net.tail.weight.data.copy_(net.tail.weight.data.flip(0))
    with cast():
        found = only_cones(net, x, *arguments)
    with cast():
        expected = by_autograd(net, x, *arguments)
    assert distance(found, expected) < ROUNDING


def test_a_model_that_keeps_casts_itself(x, only_cones, by_autograd):
    """The first recording has a cast that the others, which the graph is of, have not."""
    kept: dict[int, Tensor] = {}

    def forward(m: Model, x: Tensor) -> Tensor:
        version = m.tail.weight._version
        if version not in kept:
            kept[version] = m.tail.weight.bfloat16()
        return F.conv2d(m.stem(x).relu().bfloat16(), kept[version])

    net, arguments = large(), ("", 1, (2, 2))
    net.function = forward
    only_cones(net, x, *arguments)
    with torch.no_grad():
        net.tail.weight.copy_(net.tail.weight.flip(0))
    found, expected = only_cones(net, x, *arguments), by_autograd(net, x, *arguments)
    assert distance(found, expected) < ROUNDING


def test_a_known_model_is_not_traced_again(x, monkeypatch):
    net = large()
    with CAST:
        zfcuda.deconv(net, x, "tail")
        monkeypatch.setattr("zfcuda.graph.tracing._graph", None)
        zfcuda.deconv(net, x, "tail")
    with CAST:
        zfcuda.deconv(net, x, "tail")


def test_parts_in_float32_and_what_joins_them(x, by_autograd):
    """A model that leaves autocast in between: what cannot be followed goes by autograd."""

    def forward(m: Model, x: Tensor) -> Tensor:
        y = m.stem(x).relu()
        with torch.autocast("cpu", enabled=False):
            z = m.inner(y.float())
        return m.tail(torch.cat([F.layer_norm(z, z.shape[1:]) + y, y], 1))

    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(3, 8, 3),
        "inner": nn.Conv2d(8, 8, 3, padding=1),
        "tail": nn.Conv2d(16, 4, 3),
    }
    net = Model(forward, **layers).eval()
    with CAST:
        for layer in ("inner", "tail"):
            found = zfcuda.deconv(net, x, layer, 1, (2, 2), seed=1.0, rule="gradient")
            expected = by_autograd(net, x, layer, 1, (2, 2), seed=1.0, rule="gradient")
            assert distance(found, expected) < ROUNDING


def test_a_part_whose_numbers_are_too_large_for_float16(x, only_cones, by_autograd):
    def forward(m: Model, x: Tensor) -> Tensor:
        y = m.stem(x).relu()
        with torch.autocast("cpu", enabled=False):
            y = m.inner(1e6 * y.float()) / 1e6
        return m.tail(y)

    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "inner": nn.Conv2d(8, 8, 3), "tail": nn.Conv2d(8, 4, 3)}
    arguments = (Model(forward, **layers).eval(), x, "tail", 1, (2, 2))
    with torch.autocast("cpu", torch.float16):
        assert distance(only_cones(*arguments), by_autograd(*arguments)) < 1e-2
