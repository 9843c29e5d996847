"""Projections where convolutions round what they multiply to TF32."""

from __future__ import annotations

import pytest
import torch
from tf32 import Tf32
from torch import Tensor, nn

import zfcuda
from zfcuda.experiments.deconvnet import engines
from zfcuda.graph.guards import Untraceable
from zfcuda.storage import identity

UNITS = [(0, 3, 3), (5, 4, 4), (7, 2, 5)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 1), nn.ReLU(),
        nn.Conv2d(24, 8, 3),
    ).eval()  # fmt: skip


def project(net: nn.Module, x: Tensor) -> Tensor:
    found = zfcuda.project(net, x, "7", units=UNITS)
    assert found.precision.convolutions == ("tf32" if x.dtype == torch.float32 else "float64")
    return found.full().double()


def test_cones_and_gradients_are_rounded_alike(net, monkeypatch):
    """But for a unit's own filter, of which cones take a copy: they differ by less than either is
    off."""
    monkeypatch.setattr(identity, "_told", lambda kind: ("tf32", "ieee"))
    monkeypatch.setattr(identity, "_known", lambda device: frozenset({"tf32"}))
    x = torch.randn(1, 3, 40, 40)
    exact = project(net.double(), x.double())
    net.float()
    with Tf32() as seen:
        cones = project(net, x)
    assert not seen.products

    asked = []

    def untraceable(*_):
        asked.append(1)
        raise Untraceable("as asked")

    monkeypatch.setattr(engines, "_traced", untraceable)
    with Tf32():
        dense = project(net, x)
    assert asked
    largest = exact.abs().amax((1, 2, 3))

    def apart(some: Tensor, others: Tensor) -> Tensor:
        return (some - others).abs().amax((1, 2, 3)) / largest

    assert (apart(dense, exact) > 3e-4).all() and (apart(cones, exact) > 3e-4).all()
    assert (apart(cones, exact) < 1e-2).all() and (apart(cones, dense) < 2e-3).all()
