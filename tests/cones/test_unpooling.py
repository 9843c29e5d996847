"""Unpooling by another layer's switches: rectangles, patches and signals against whole maps."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operators import check_down, check_up, some_boxes
from torch import nn
from traces import Model, images, rules, traced

import zfcuda
from zfcuda import ops
from zfcuda.cones.receptive import receptive_fields
from zfcuda.graph import rules as kinds
from zfcuda.graph import trace

KINDS = {kinds.Switches, kinds.Unpool}


def torchs(kernel, stride=None, ceil_mode=False):
    """Pooled, changed, and put back where it was."""

    def call(m, x):
        pooled, indices = F.max_pool2d(x, kernel, stride, ceil_mode=ceil_mode, return_indices=True)
        size = x.shape[2:]
        return F.max_unpool2d(pooled * 2 - 1, indices, kernel, stride, output_size=size)

    return Model(call).eval()


def ours(kernel, stride=None, ceil_mode=False, relu=False):
    def call(m, x):
        pooled, switches = ops.max_pool2d(x, kernel, stride, 0, 1, ceil_mode, relu)
        return ops.max_unpool2d(pooled * 2 - 1, switches, kernel, stride, output_size=x.shape[2:])

    return Model(call).eval()


@st.composite
def axes(draw):
    kernel = draw(st.integers(1, 3))
    return kernel, kernel + draw(st.integers(0, 2)), kernel + draw(st.integers(0, 8))


@st.composite
def cases(draw):
    """A network, and two images with equal numbers in them for it."""
    kernel, stride, size = zip(draw(axes()), draw(axes()), strict=True)
    ceil_mode, relu = draw(st.booleans()), draw(st.booleans())
    make = draw(st.sampled_from([torchs, ours]))
    net = make(kernel, stride, ceil_mode, **({"relu": relu} if make is ours else {}))
    x = images(2, size)
    try:
        with torch.no_grad():
            net(x)
    except ValueError:  # torch wants sizes near those that it would make itself
        assume(False)
    return net, x.round() if draw(st.booleans()) else x


@given(cases(), st.integers(0, 2**16))
def test_patches(case, seed):
    net, x = case
    graph = check_up(net, x, some_boxes(x.shape[2:], 7, seed))
    assert {type(rule) for rule in rules(graph)} >= KINDS


@given(cases())
def test_signals(case):
    check_down(*case)


class SegNet(nn.Module):
    """Two stages down, two up."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.back, self.tail = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x):
        x = self.one(x).relu()
        below, first = x.shape, None
        x, first = self.pool(x)
        x = self.two(x).relu()
        between = x.shape
        x, second = self.pool(x)
        x = self.back(self.unpool(x, second, output_size=between)).relu()
        x = self.tail(self.unpool(x, first, output_size=below)).relu()
        return x.amax((2, 3))


@pytest.mark.parametrize("size", [(16, 20), (15, 17)])
def test_occlusion(size):
    net, x = SegNet().double().eval(), torch.randn(2, 3, *size, dtype=torch.float64)
    assert {type(rule) for rule in rules(traced(net, x))} >= KINDS
    assert kinds.Opaque not in {type(rule) for rule in rules(trace(net, x))}
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=3, layers=["back", "tail"], method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)
    for layer in ("back", "tail"):
        torch.testing.assert_close(cones.layers[layer].sums, dense.layers[layer].sums)


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projection(rule):
    net, x = SegNet().double().eval(), torch.randn(1, 3, 15, 17, dtype=torch.float64)
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    net.one.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0))


def test_in_another_type():
    net, x = torchs(2), images(2, (8, 6)).half()
    check_up(net, x, some_boxes((8, 6), 7))


@settings(max_examples=10)
@given(st.sampled_from([(3, 2, 1), (3, 2, 0), (2, 1, 0), (2, 2, 1)]), st.booleans())
def test_windows_that_overlap_or_are_padded_are_a_barrier(window, own):
    """Several may send to one place; the network is right all the same."""
    kernel, stride, padding = window

    def call(m, x):
        x, size = m.conv(x), (9, 7)
        if own:
            pooled, switches = ops.max_pool2d(x, kernel, stride, padding)
            y = ops.max_unpool2d(pooled, switches, kernel, stride, padding, output_size=size)
        else:
            pooled, indices = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
            y = torch.ops.aten.max_unpool2d(pooled, indices, size)
        return y.mean((2, 3))

    net, x = Model(call, conv=nn.Conv2d(4, 4, 3, padding=1).double()).eval(), images(1, (9, 7))
    assert not KINDS & {type(rule) for rule in rules(trace(net, x))}
    cones, dense = (
        zfcuda.occlusion(net, x, size=2, stride=3, method=method) for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)


def test_switches_of_another_size_or_of_nothing_known():
    def wider(m, x):
        pooled, indices = F.max_pool2d(x, 2, return_indices=True)
        return torch.ops.aten.max_unpool2d(pooled, indices, (8, 8))

    def given_(m, x):
        indices = torch.arange(12).view(1, 1, 4, 3).expand(len(x), 4, 4, 3)
        return torch.ops.aten.max_unpool2d(F.max_pool2d(x, 2), indices.contiguous(), (8, 6))

    for call in (wider, given_):
        found = rules(trace(Model(call).eval(), images(2, (8, 6))))
        assert not KINDS & {type(rule) for rule in found}


def test_receptive_fields():
    net = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1).double(), torchs(2))
    field = receptive_fields(net, images(1, (16, 16)), ["1"])["1"]
    assert (field.size, field.stride) == ((7, 7), (2, 2))
