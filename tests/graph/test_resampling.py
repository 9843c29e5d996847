"""Interpolation and adaptive averages: the weights read off a call are all that it does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from traces import Model, images, only, traced

from zfcuda.graph.rules import AdaptiveMaxPool, Identity, Opaque, Resampling, Taps

SIZES = st.tuples(st.integers(1, 13), st.integers(1, 13))


@st.composite
def resamplings(draw):
    """A function of maps that resamples them, and their size."""
    size, wanted = draw(SIZES), draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    kind = draw(st.sampled_from(["adaptive", "area", "size", "scale"]))
    if kind == "adaptive":
        return size, lambda x: F.adaptive_avg_pool2d(x, wanted)
    if kind == "area":
        return size, lambda x: F.interpolate(x, wanted, mode="area")
    more = {
        "mode": draw(st.sampled_from(["bilinear", "bicubic"])),
        "antialias": draw(st.booleans()),
        "align_corners": draw(st.booleans()),
    }
    if kind == "size":
        return size, lambda x: F.interpolate(x, wanted, **more)
    scale = draw(st.tuples(st.floats(0.3, 2.5), st.floats(0.3, 2.5)))
    assume(all(int(n * s) >= 1 for n, s in zip(size, scale, strict=True)))
    more |= {"align_corners": None, "recompute_scale_factor": draw(st.sampled_from([None, True]))}
    return size, lambda x: F.interpolate(x, scale_factor=scale, **more)


def matrix(taps: Taps) -> torch.Tensor:
    """The weights [n,size] as a matrix."""
    found = torch.zeros(len(taps.places), taps.size, dtype=torch.float64)
    for row, places, weights in zip(found, taps.places, taps.weights, strict=True):
        for place, weight in zip(places, weights, strict=True):
            if place >= 0:
                row[place] += weight
    return found


@given(resamplings())
def test_its_matrices_are_the_call(case):
    size, function = case
    x = images(2, size, 3)
    rule = only(lambda m, x: function(x), x)
    if not isinstance(rule, Resampling):  # nothing moves, windows are alike, or torch is wrong
        assert not isinstance(rule, Opaque) or function(x).shape[3] == 1
        return
    torch.testing.assert_close(matrix(rule.rows) @ x @ matrix(rule.columns).T, function(x))
    assert torch.equal(matrix(rule.rows.transposed), matrix(rule.rows).T)
    assert not (rule.rows.still and rule.columns.still)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_other_numbers(dtype):
    x = images(1, (9, 7)).to(dtype)
    rule = only(lambda m, x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), x)
    found = matrix(rule.rows) @ x.double() @ matrix(rule.columns).T
    torch.testing.assert_close(
        F.interpolate(x, scale_factor=1.7, mode="bilinear").double(),
        found,
        rtol=torch.finfo(dtype).eps,
        atol=torch.finfo(dtype).eps,
    )


@pytest.mark.parametrize("scale", [(1.05, 2), (2, 1.05), (1.05, 1.05)])
def test_a_size_that_stays_while_the_scale_does_not(scale):
    """With the scale given the maps may still be interpolated."""
    x = images(1, (12, 12))
    rule = only(lambda m, x: F.interpolate(x, scale_factor=scale, mode="bicubic"), x)
    assert not rule.rows.still and not rule.columns.still
    found = matrix(rule.rows) @ x @ matrix(rule.columns).T
    torch.testing.assert_close(found, F.interpolate(x, scale_factor=scale, mode="bicubic"))


def test_a_size_that_stays():
    assert isinstance(only(lambda m, x: F.interpolate(x, (12, 10), mode="bilinear")), Identity)


def test_taps_of_weight_zero_count():
    """They hand on what is not a number."""
    rule = only(lambda m, x: F.interpolate(x, (23, 10), mode="bilinear", align_corners=True))
    assert (rule.rows.places[0] == [0, 1]).all() and (rule.rows.weights[0] == [1, 0]).all()
    x = images()
    x[:, :, 1] = torch.nan
    y = F.interpolate(x, (23, 10), mode="bilinear", align_corners=True)
    first, last = rule.rows.extent
    assert (y[0, 0, :, 0].isnan().numpy() == ((first <= 1) & (last >= 1))).all()


def test_largest_numbers():
    """Of windows that overlap; their places are something else."""
    rule = only(nn.AdaptiveMaxPool2d((5, 7)))
    assert isinstance(rule, AdaptiveMaxPool)
    found = [[place for place in row if place >= 0] for row in rule.rows.places.tolist()]
    assert found == [[*range(12 * i // 5, -(-12 * (i + 1) // 5))] for i in range(5)]
    graph = traced(Model(lambda m, x: F.adaptive_max_pool2d(x, 5, return_indices=True)[1] * 1.0))
    assert not any(isinstance(node.rule, AdaptiveMaxPool) for node in graph.nodes)


def test_nothing_below():
    taps = Taps(np.array([[-1, -1], [2, -1]]), np.array([[0.0, 0.0], [0.5, 0.0]]), 3)
    assert taps.extent[1].tolist() == [-1, 2]
    assert taps.transposed.places.tolist() == [[-1], [-1], [1]]
    assert taps.transposed.weights.tolist() == [[0], [0], [0.5]]
