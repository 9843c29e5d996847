"""Intercepted calls return what torch's do, run on our kernels, and are measured."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zfcuda import ops
from zfcuda.inference.deconvnet_rules import deconvnet_rules
from zfcuda.inference.interception import Interception, fast_forward


@pytest.fixture
def counted(monkeypatch):
    """How often each of our kernels is called."""
    counts = {"max_pool2d": 0, "local_response_norm": 0}

    def counting(name, kernel):
        def call(*args, **kwargs):
            counts[name] += 1
            return kernel(*args, **kwargs)

        return call

    for name in counts:
        kernel = getattr(ops, name)
        monkeypatch.setattr(ops, name, counting(name, kernel))
    return counts


POOLS = {
    "module": nn.MaxPool2d(3, 2, padding=1),
    "function": lambda x: F.max_pool2d(x, 3, 2, 1),
    "torch": lambda x: torch.max_pool2d(x, 3, 2, 1),
    "keywords": lambda x: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1),
    "aten": lambda x: torch.ops.aten.max_pool2d(x, [3, 3], [2, 2], [1, 1]),
}


@pytest.mark.parametrize("mode", [fast_forward, deconvnet_rules])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS.keys())
def test_every_spelling_of_max_pooling_runs_on_our_kernel(x, counted, mode, pool):
    expected = pool(x)
    with mode():
        assert torch.equal(pool(x), expected)
    assert counted["max_pool2d"] == 1


@pytest.mark.parametrize("mode", [fast_forward, deconvnet_rules])
def test_networks_compute_the_same(net, x, mode):
    with torch.no_grad():
        expected = net(x)
        with mode():
            result = net(x)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-14)


def test_contrast_normalisation_runs_on_our_kernel(x, counted):
    expected = F.local_response_norm(x, 3, 0.5, k=2.0)
    with fast_forward():
        result = nn.LocalResponseNorm(3, alpha=0.5, k=2.0)(x)
    torch.testing.assert_close(result, expected)
    assert counted["local_response_norm"] == 1


def test_indices_and_images_without_batch(x):
    expected = F.max_pool2d(x, 3, 2, return_indices=True)
    for mode in (fast_forward, deconvnet_rules):
        with mode():
            pooled, indices = F.max_pool2d(x, 3, 2, return_indices=True)
            single, single_indices = F.max_pool2d(x[0], 3, 2, return_indices=True)
            alone = F.max_pool2d(x[0], 3, 2)
        assert torch.equal(pooled, expected[0]) and torch.equal(indices, expected[1])
        assert torch.equal(single, pooled[0]) and torch.equal(single_indices, indices[0])
        assert torch.equal(alone, pooled[0])


@pytest.mark.parametrize("overlap", ["sum", "overwrite"])
def test_pooling_with_indices_follows_the_overlap_rule(x, overlap):
    signals = []
    for returned in (False, True):
        leaf = x.clone().requires_grad_()
        with deconvnet_rules(overlap):
            y = F.max_pool2d(leaf, 3, 1, return_indices=returned)
            y = y[0] if returned else y
        signals.append(torch.autograd.grad(y, leaf, y.detach())[0])
    assert torch.equal(*signals)


def test_in_place_calls_stay_in_place(x):
    leaf = x.clone().requires_grad_()
    with deconvnet_rules():
        y = leaf * 1
        assert y.relu_() is y
        z = leaf * 1
        F.leaky_relu(z, 0.1, inplace=True)
    assert torch.equal(y, x.relu())
    assert torch.equal(z, F.leaky_relu(x, 0.1))


def test_clamps_that_are_no_relu_keep_their_gradient(x):
    leaf = x.clone().requires_grad_()
    with deconvnet_rules():
        for y in (
            leaf.clamp(max=0.5),
            leaf.clamp(-0.5, 0.5),
            F.hardtanh(leaf),
            F.threshold(leaf, 1, 0),
        ):
            (signal,) = torch.autograd.grad(y, leaf, -torch.ones_like(y))
            assert set(signal.unique().tolist()) == {-1.0, 0.0}


def test_measured_bytes():
    x = torch.zeros(1000, dtype=torch.uint8)
    with Interception({}, measure=True) as calls:
        y = x + 1  # 1000 alive
        y += 1  # nothing new
        z = y.view(10, 100)[2:]  # a view
        del y
        z = z + 1  # 800 new, 1800 alive until the first 1000 are gone
        z = z + 1  # 800 new, 1600 alive
    assert calls.total_bytes == 1000 + 800 + 800
    assert calls.peak_bytes == 1800
    del z
    assert calls._live_bytes == 0
