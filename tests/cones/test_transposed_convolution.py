"""Transposed convolution: rectangles, patches and signals against whole maps."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from operators import check_down, check_exact, check_up, some_boxes
from torch import nn
from traces import images, lies_in, only, traced

import zfcuda
from zfcuda.cones.receptive import receptive_fields
from zfcuda.cones.steps import fuse
from zfcuda.experiments.diagrams import naming
from zfcuda.graph import rules as kinds


@st.composite
def axes(draw):
    """Size, kernel, stride, padding, output padding and dilation of an axis with some output."""
    kernel, stride, dilation = (draw(st.integers(1, most)) for most in (5, 4, 3))
    more = draw(st.integers(0, max(stride, dilation) - 1))
    size, padding = draw(st.integers(1, 7)), draw(st.integers(0, 5))
    most = ((size - 1) * stride + dilation * (kernel - 1) + more) // 2
    return size, kernel, stride, min(padding, most), more, dilation


@st.composite
def layers(draw):
    """A layer whose weights and bias are positive, and two images for it."""
    (height, *rows), (width, *columns) = draw(axes()), draw(axes())
    kernel, stride, padding, more, dilation = zip(rows, columns, strict=True)
    groups, bias = draw(st.sampled_from([1, 2])), draw(st.booleans())
    layer = nn.ConvTranspose2d(
        4, 6, kernel, stride, padding, more, groups=groups, bias=bias, dilation=dilation
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1)
    return layer.eval(), images(2, (height, width))


@given(layers())
def test_rectangles(case):
    layer, x = case
    check_exact(layer, traced(layer, x), x)


@given(layers(), st.integers(0, 2**16))
def test_patches(case, seed):
    layer, x = case
    check_up(layer, x, some_boxes(x.shape[2:], 7, seed))


@given(layers())
def test_signals(case):
    check_down(*case)


@settings(max_examples=15)
@given(layers(), layers())
def test_signals_through_two(first, second):
    """Windows that lie anywhere on the maps."""
    (one, x), (other, _) = first, second
    joined = nn.Sequential(one, nn.Conv2d(6, 4, 3, padding=2).double(), other).eval()
    try:
        assume(joined(x).numel() < 10_000)
    except RuntimeError:  # nothing is left by the padding
        assume(False)
    check_down(joined, x)


def test_what_follows_is_part_of_it():
    """A batch norm is folded into it, an activation done in its memory."""
    layer = nn.ConvTranspose2d(4, 6, 4, 2, 1, groups=2)
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean), nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    net = nn.Sequential(layer, norm, nn.LeakyReLU(0.1)).double().eval()
    x = images(2, (7, 5))
    graph = check_up(net, x, some_boxes((7, 5), 9))
    assert len(fuse(graph).steps) == 2
    check_down(net, x)


def test_recognised():
    layer = nn.ConvTranspose2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 0), 2, dilation=(1, 2)).double()
    rule = only(layer)
    assert isinstance(rule, kinds.TransposedConv)
    assert lies_in(rule.weight, layer.weight), "live, not copied"
    assert (rule.stride, rule.padding, rule.dilation) == ((2, 1), (1, 0), (1, 2))
    assert (rule.output_padding, rule.groups, rule.channels) == ((1, 0), 2, 6)
    (node,) = traced(layer).nodes[1:]
    assert node.spelled == "conv_transpose2d"


class Decoder(nn.Module):
    """Down and up again, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1, 1)
        self.tail = nn.Conv2d(12, 5, 3, padding=1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.up(self.down(x).relu()).relu()
        return self.tail(torch.cat([x, y], 1)).relu().amax((2, 3))


def test_occlusion():
    net, x = Decoder().double().eval(), torch.randn(2, 3, 16, 18, dtype=torch.float64)
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=3, layers=["up", "tail"], method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits, rtol=1e-10, atol=1e-10)
    for layer in ("up", "tail"):
        torch.testing.assert_close(cones.layers[layer].sums, dense.layers[layer].sums)


@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projection(rule):
    net, x = Decoder().double().eval(), torch.randn(1, 3, 16, 18, dtype=torch.float64)
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    net.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0))


def test_receptive_fields():
    """Bounds that hold every pixel that a unit sees, as tight as bounds of equal size can be."""
    up = nn.ConvTranspose2d(4, 4, 5, 2, 2, 1).double()
    net = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1).double(), up)
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    x = images(1, (24, 24)).requires_grad_()
    field = receptive_fields(net, x, ["1"])["1"]
    assert field.stride == (1, 1)
    maps = net(x)
    seen = []
    for row in range(8, 14):
        (slope,) = torch.autograd.grad(maps[0, 0, row, row], x, retain_graph=True)
        at = slope[0, 0].nonzero()
        y0, x0, y1, x1 = field.box(row, row)
        assert y0 <= at[:, 0].min() and at[:, 0].max() < y1
        assert x0 <= at[:, 1].min() and at[:, 1].max() < x1
        seen.append((int(at[:, 0].min()) - y0, y1 - 1 - int(at[:, 0].max())))
    assert min(a for a, _ in seen) == min(b for _, b in seen) == 0
    alone = receptive_fields(nn.Sequential(up), x.detach(), ["0"])["0"]
    assert alone == "units' fields are not evenly spaced in '0'"


def test_words():
    layer = nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2)
    found = naming(traced(layer.double()).nodes[1])
    assert (found.kind, found.back) == ("transposed convolution", "convolution")
    assert found.detail == "6 filters 2×3×3, stride 2, pad 1, 2 groups"
