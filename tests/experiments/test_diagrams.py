"""Diagrams say what the model computes, and their numbers are the image's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from zoo import Model

import zfcuda
from zfcuda.experiments.deconvnet.projecting import projections
from zfcuda.experiments.diagrams import diagram_of
from zfcuda.results.diagram import Diagram, Step


def arrows(diagram):
    """(from, to) by name; sources in brackets."""
    names = [step.name for step in diagram.steps]
    return [
        (names[i] if i >= 0 else f"[{diagram.sources[-1 - i].name}]", step.name)
        for step in diagram.steps
        for i in step.inputs
    ]


def test_a_layer_reaches_down_to_its_convolution(make, x):
    diagram = diagram_of(make("VGGLike"), x[:1], "features.2")
    assert arrows(diagram) == [
        ("[image]", "features.0"),
        ("features.0", "features.1"),
        ("features.1", "features.2"),
    ]
    assert [step.kind for step in diagram.steps] == ["convolution", "rectification", "max-pooling"]
    assert [step.back for step in diagram.steps] == [
        "transposed convolution",
        "rectification",
        "max-unpooling",
    ]
    assert diagram.steps[0].detail == "4 filters 3×3×3, pad 1"
    assert [step.shape for step in diagram.steps] == [(4, 16, 18), (4, 16, 18), (4, 8, 9)]
    assert diagram.sources[0].shape == (3, 16, 18) and diagram.sources[0].calls == 0

    later = diagram_of(make("VGGLike"), x[:1], "tail")
    assert arrows(later) == [("[features.5]", "tail")]
    assert later.sources[0].calls == 6
    assert later.switch.name == "features.2"  # the nearest below


def test_branches_and_shortcuts_are_whole(make, x):
    residual = diagram_of(make("Residual"), x[:1], "relu")
    assert [step.kind for step in residual.steps] == [
        "convolution",
        "batch normalisation",
        "sum",
        "rectification",
    ]
    # The shortcut is the value that the convolution takes.
    assert residual.steps[0].inputs == (-1,) and residual.steps[2].inputs == (1, -1)
    assert residual.switch is None

    inception = diagram_of(make("Inception"), x[:1], "tail", depth=5)
    assert [step.kind for step in inception.steps] == ["convolution"]

    def joined(m, x):
        return torch.cat([m.a(x), m.relu(m.b(x))], 1) * 2  # a following call ends the block

    block = Model(joined, a=nn.Conv2d(3, 2, 1), b=nn.Conv2d(3, 2, 1), relu=nn.ReLU())
    whole = Model(lambda m, x: m.head(m.block(x).mean((2, 3))), block=block, head=nn.Linear(4, 3))
    whole = whole.double().eval()
    assert arrows(diagram_of(whole, x[:1], "block")) == [
        ("[image]", "block.a"),
        ("[image]", "block.b"),
        ("block.b", "block.relu"),
        ("block.a", "cat"),
        ("block.relu", "cat"),
        ("cat", "block"),
    ]


def test_of_a_deep_layer_the_topmost_calls_are_drawn(make, x):
    whole = diagram_of(make("VGGLike"), x[:1], "features")
    assert [step.name for step in whole.steps] == [f"features.{i}" for i in range(6)]
    cut = diagram_of(make("VGGLike"), x[:1], "features", depth=2)
    assert [step.name for step in cut.steps] == ["features.4", "features.5"]
    assert (cut.sources[0].name, cut.sources[0].calls) == ("features.3", 4)


def test_calls_that_change_nothing_are_left_out(x):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    net = net.double().eval()
    net(x)
    assert arrows(diagram_of(net, x[:1], "2")) == [("[image]", "0"), ("0", "2")]
    kinds = [(step.kind, step.back) for step in diagram_of(net, x[:1], "4").steps]
    assert kinds == [("linear", "transposed linear")]


def test_what_has_no_rule_goes_down_by_its_gradient(x):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.SiLU(inplace=True), nn.MaxPool2d(2), nn.Flatten())
    with pytest.warns(UserWarning, match="no rule for SiLU '1'"):
        diagram = diagram_of(net.double().eval(), x[:1], "2")
    assert (diagram.steps[1].kind, diagram.steps[1].back) == ("SiLU", "gradient of SiLU")


@pytest.mark.filterwarnings("ignore:.*gradient")
@pytest.mark.parametrize("layer", ["tail", "classes"])
def test_any_network_has_a_diagram(net, x, layer):
    diagram = diagram_of(net, x[:1], layer)
    assert diagram.steps[-1].name == layer
    assert diagram.model == type(net).__name__
    torch.testing.assert_close(diagram.projection[None], zfcuda.deconv(net, x[:1], layer))
    assert torch.equal(diagram.image, x[0])


def test_the_unit_is_the_one_that_is_projected(make, x):
    net = make("Fused")
    diagram = diagram_of(net, x[:1], "pool")
    seen = projections(net, x[:1], "pool")
    assert list(diagram.unit) == seen.units["pool"][0].tolist()
    assert diagram.activation == seen.activations["pool"][0]
    step, switch = diagram.steps[-1], diagram.switch
    assert (step.kind, step.back_detail) == (
        "rectified max-pooling",
        "by the switches, then rectified",
    )
    # The example shows the windows around that very unit.
    at = [first + place for first, place in zip(switch.first, switch.unit, strict=True)]
    assert [switch.channel, *at] == seen.units["pool"][0].tolist()
    assert switch.rectified and switch.pooled[switch.unit] == diagram.activation


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": (2, 3), "stride": (2, 1), "dilation": (1, 2)},
        {"kernel_size": 6, "stride": 5},
        {"kernel_size": (16, 18)},
    ],
    ids=str,
)
def test_the_example_of_switches_is_real(x, settings):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(**settings)).double().eval()
    switch = diagram_of(net, x[:1], "1").switch
    with torch.no_grad():
        maps = net[0](x[:1])
        pooled = net[1](maps)[0]
    plane = maps[0, switch.channel]
    (row, column), (y, left) = switch.first, switch.origin
    rows, columns = switch.pooled.shape
    shown = pooled[switch.channel, row : row + rows, column : column + columns]
    torch.testing.assert_close(switch.pooled, shown)
    assert switch.pooled[switch.unit] == pooled.max()
    for (i, j), value in placed(switch.values):
        inside = 0 <= y + i < 16 and 0 <= left + j < 18
        assert value == plane[y + i, left + j] if inside else value.isnan()

    back = torch.zeros_like(switch.values)
    dilation = settings.get("dilation", (1, 1))
    for (i, j), maximum in placed(switch.pooled):
        tap = divmod(int(switch.switches[i, j]), switch.kernel[1])
        place = [
            at * step + t * d
            for at, step, t, d in zip((i, j), switch.stride, tap, dilation, strict=True)
        ]
        assert switch.values[tuple(place)] == maximum
        back[tuple(place)] += maximum
    back[switch.values.isnan()] = torch.nan
    torch.testing.assert_close(switch.unpooled, back, equal_nan=True)


def placed(plane):
    """((row, column), value) of every value."""
    return [((i, j), plane[i, j]) for i in range(plane.shape[0]) for j in range(plane.shape[1])]


def test_what_cannot_be_drawn_says_why(make, x):
    net = make("VGGLike")
    with pytest.raises(ValueError, match=r"x must hold one image \[1,C,H,W\]"):
        diagram_of(net, x, "tail")
    with pytest.raises(ValueError, match=r"no layer 'tial'.*'tail'"):
        diagram_of(net, x[:1], "tial")
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        diagram_of(net, x[:1], "tail", depth=0)

    def branching(m, x):
        y = m.conv(x)
        return (y if y.sum() > 0 else -y).flatten(1)

    with pytest.raises(ValueError, match="the model cannot be drawn: "):
        diagram_of(Model(branching, conv=nn.Conv2d(3, 2, 3)).double().eval(), x[:1], "conv")
    with pytest.raises(ValueError, match=r"step 0 \(a\) takes \[0\], which do not precede it"):
        step = Step("a", "", "", "", "", (0,), ())
        Diagram("m", "a", (step,), (), (0, 0, 0), 0.0, x[0], x[0], None, 0.0)
