"""Traces against the models themselves, spelling by spelling; and what cannot be traced."""

import contextlib
import random
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda
from zfcuda.graph import Graph, Untraceable, trace
from zfcuda.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Lrn,
    MaxPool,
    Opaque,
    Pixelwise,
    Pointwise,
    Shape,
)


class Model(nn.Module):
    """A forward given as a function of (the module, x)."""

    def __init__(self, forward, **attributes):
        super().__init__()
        self.function = forward
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.function(self, x)


def images(n=2, size=(12, 10), channels=4):
    return torch.randn(n, channels, *size, dtype=torch.float64)


def values_of(graph: Graph, x: Tensor) -> list:
    values = {0: x}
    with torch.no_grad():
        for node in graph.nodes:
            values[node.index] = graph.evaluate(node, values)
    return [values[i] for i in range(len(graph.nodes))]


def traced(model: nn.Module, x: Tensor | None = None) -> Graph:
    """The model's graph, after checking that it answers as the model does on other images, in
    another number, and leaves everything it is given alone."""
    x = images() if x is None else x
    model.eval()
    kept = x.clone()
    graph = trace(model, x)
    assert torch.equal(x, kept)
    more = torch.cat([x.flip(2), x])
    values = values_of(graph, more)
    assert torch.equal(more, torch.cat([x.flip(2), x]))
    with torch.no_grad():
        assert torch.equal(values[graph.output], model(more.clone()))
    for node, value in zip(graph.nodes, values, strict=True):
        assert node.shape == (tuple(value.shape[1:]) if isinstance(value, Tensor) else None)
        assert all(i < node.index for i in node.inputs)
        assert all(node.index in graph.consumers[i] for i in node.inputs)
    return graph


def rules(graph: Graph) -> list:
    return [node.rule for node in graph.nodes[1:]]


def only(model, x=None):
    """The one rule of a model of one call."""
    (rule,) = rules(traced(model if isinstance(model, nn.Module) else Model(model), x))
    return rule


# --- every rule in every spelling -----------------------------------------------------------------

WEIGHT = torch.randn(6, 2, 3, 2, dtype=torch.float64)
BIAS = torch.randn(6, dtype=torch.float64)


def convolution() -> nn.Conv2d:
    return nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2).double()


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.conv(x),
        lambda m, x: F.conv2d(x, m.conv.weight, m.conv.bias, (2, 1), (1, 0), (1, 2), 2),
        lambda m, x: torch.conv2d(
            x, m.conv.weight, m.conv.bias, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2
        ),
    ],
    ids=["module", "functional", "torch"],
)
def test_convolution(call):
    model = Model(call, conv=convolution())
    rule = only(model)
    assert isinstance(rule, Conv)
    assert rule.weight is model.conv.weight and rule.bias is model.conv.bias, "live, not copied"
    assert (rule.stride, rule.padding, rule.dilation) == ((2, 1), (1, 0), (1, 2))
    assert rule.groups == 2 and rule.kernel == (3, 2)


@pytest.mark.parametrize(
    ("padding", "kernel", "expected"),
    [("same", (3, 5), (2, 4)), ("valid", (3, 5), (0, 0)), ("same", (2, 3), None)],
)
def test_named_padding(padding, kernel, expected):
    dilation = 2 if expected else 1
    rule = only(nn.Conv2d(4, 2, kernel, padding=padding, dilation=dilation).double())
    assert rule.padding == expected if expected else isinstance(rule, Opaque)


def test_other_padding_is_opaque():
    for mode in ("reflect", "circular", "replicate"):
        assert only(nn.Conv2d(4, 2, 3, padding=1, padding_mode=mode).double()) == Opaque()


@pytest.mark.parametrize(
    "call",
    [
        nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True),
        zfcuda.nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True),
        lambda m, x: F.max_pool2d(x, 3, (2, 1), 1, 2, ceil_mode=True),
        lambda m, x: torch.max_pool2d(x, 3, (2, 1), 1, 2, True),
    ],
    ids=["module", "ours", "functional", "torch"],
)
def test_max_pool(call):
    assert only(call) == MaxPool((3, 3), (2, 1), (1, 1), (2, 2), True)


def test_max_pool_that_rectifies():
    assert only(zfcuda.nn.MaxPool2d(3, 2, relu=True)) == MaxPool(
        (3, 3), (2, 2), (0, 0), (1, 1), False, relu=True
    )


def test_max_pool_with_indices_is_opaque():
    assert all(
        rule == Opaque()
        for rule in rules(traced(Model(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0])))
    )


@pytest.mark.parametrize(
    "call",
    [
        nn.AvgPool2d((3, 2), 2, (1, 0), True, False, 5),
        lambda m, x: F.avg_pool2d(x, (3, 2), 2, (1, 0), True, False, 5),
    ],
    ids=["module", "functional"],
)
def test_average_pool(call):
    assert only(call) == AvgPool((3, 2), (2, 2), (1, 0), True, False, 5)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (nn.AdaptiveAvgPool2d((6, 5)), AvgPool((2, 2), (2, 2), (0, 0), False, True, None)),
        (nn.AdaptiveAvgPool2d((None, 5)), AvgPool((1, 2), (1, 2), (0, 0), False, True, None)),
        (nn.AdaptiveAvgPool2d(1), AvgPool((12, 10), (12, 10), (0, 0), False, True, None)),
        (
            lambda m, x: F.adaptive_avg_pool2d(x, (3, 2)),
            AvgPool((4, 5), (4, 5), (0, 0), False, True, None),
        ),
        (
            lambda m, x: x.mean((2, 3), keepdim=True),
            AvgPool((12, 10), (12, 10), (0, 0), False, True, None),
        ),
        (
            lambda m, x: torch.mean(x, [-1, -2], True),
            AvgPool((12, 10), (12, 10), (0, 0), False, True, None),
        ),
        (nn.AdaptiveMaxPool2d((6, 5)), MaxPool((2, 2), (2, 2), (0, 0), (1, 1), False)),
        (
            lambda m, x: x.amax((2, 3), keepdim=True),
            MaxPool((12, 10), (12, 10), (0, 0), (1, 1), False),
        ),
        (nn.AdaptiveAvgPool2d((12, 10)), Identity()),
        (nn.AdaptiveAvgPool2d(7), Opaque()),
        (lambda m, x: x.mean((2, 3)), Opaque()),
        (lambda m, x: x.mean((1, 2), keepdim=True), Opaque()),
    ],
)
def test_adaptive_pools_and_means(call, expected):
    assert only(call) == expected


def test_pool_of_the_size_it_meets():
    graph = traced(Model(lambda m, x: F.avg_pool2d(x, x.shape[2:])))
    assert rules(graph)[-1] == AvgPool((12, 10), (12, 10), (0, 0), False, True, None)
    assert graph.nodes[graph.output].inputs == (0,), "the size is not a value of the pool"
    assert all(rule == Shape() for rule in rules(graph)[:-1])


def affine_error(rule: Affine, call, x: Tensor) -> float:
    with torch.no_grad():
        y = x * rule.scale[:, None, None] + rule.shift[:, None, None]
        return float((y - call(x)).abs().max())


def test_batch_norm():
    for affine in (True, False):
        norm = nn.BatchNorm2d(4, affine=affine).double().eval()
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.1, 2.0)
        if affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        rule = only(norm)
        assert isinstance(rule, Affine) and affine_error(rule, norm, images()) < 1e-12

        def functional(m, x, norm=norm):
            return F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )

        rule = only(functional)
        assert isinstance(rule, Affine) and affine_error(rule, norm, images()) < 1e-12


PER_CHANNEL = torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x * m.p,
        lambda m, x: m.p * x,
        lambda m, x: x + m.p,
        lambda m, x: m.p - x,
        lambda m, x: x.sub(m.p),
        lambda m, x: x / m.p,
        lambda m, x: torch.mul(x, m.p),
    ],
)
def test_parameters_per_channel(call, shape):
    model = Model(call, p=nn.Parameter(PER_CHANNEL.view(shape)))
    rule = only(model)
    assert isinstance(rule, Affine)
    assert affine_error(rule, lambda x: call(model, x), images()) < 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x * 2,
        lambda m, x: 1 - x,
        lambda m, x: x / 255.0,
        lambda m, x: x.add(3),
        lambda m, x: torch.rsub(x, 2.0),
        lambda m, x: x * torch.tensor(2.0),
        lambda m, x: x.mul_(2),
        lambda m, x: x.add_(1.5),
    ],
)
def test_numbers(call):
    rule = only(call)
    assert isinstance(rule, Affine)
    assert affine_error(rule, lambda x: call(None, x.clone()), images()) < 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x * torch.ones(10),  # differs along a row, or would
        lambda m, x: x + torch.ones(1, 4, 12, 10),
        lambda m, x: m.conv(x) * torch.ones(4, 1, 1),  # makes channels
    ],
)
def test_what_is_not_per_channel_is_opaque(call):
    conv = nn.Conv2d(4, 1, 1).double()
    assert isinstance(rules(traced(Model(call, conv=conv)))[-1], Opaque | Pixelwise)


def test_contrast_normalisation():
    for kind in (nn, zfcuda.nn):
        assert only(kind.LocalResponseNorm(3, 0.5, 0.7, 2.0)) == Lrn(3, 0.5, 0.7, 2.0)
    assert only(lambda m, x: F.local_response_norm(x, 3, k=2.0)) == Lrn(3, 1e-4, 0.75, 2.0)


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.LeakyReLU(0.3, inplace=True),
        nn.Hardtanh(-0.5, 0.7),
        nn.ELU(0.5, inplace=True),
        nn.CELU(2.0),
        nn.SELU(inplace=True),
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(inplace=True),
        nn.Mish(),
        nn.Softplus(2.0, 5.0),
        nn.Softsign(),
        nn.Hardswish(inplace=True),
        nn.Hardsigmoid(),
        nn.Sigmoid(),
        nn.LogSigmoid(),
        nn.Tanh(),
        nn.Tanhshrink(),
        nn.Softshrink(0.3),
        nn.Hardshrink(0.4),
        nn.Threshold(0.1, 7.0),
        nn.PReLU(),
        nn.PReLU(4, 0.4),
        nn.RReLU(),
    ],
    ids=repr,
)
def test_activation_modules(module):
    check_pointwise(only(module.double()), lambda x: module(x.clone()))


def check_pointwise(rule, call):
    assert isinstance(rule, Pointwise)
    x = images()
    kept = x.clone()
    with torch.no_grad():
        expected = call(x)
        assert torch.allclose(rule.function(x), expected, 1e-12, 1e-12)
        assert torch.equal(x, kept), "out of place"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, x: F.relu(x), "relu"),
        (lambda m, x: F.relu(x, inplace=True), "relu"),
        (lambda m, x: F.relu(x, True), "relu"),
        (lambda m, x: torch.relu(x), "relu"),
        (lambda m, x: torch.relu_(x), "relu"),
        (lambda m, x: x.relu(), "relu"),
        (lambda m, x: x.relu_(), "relu"),
        (lambda m, x: x.clamp(min=0), "relu"),
        (lambda m, x: torch.clamp_min(x, 0), "relu"),
        (lambda m, x: x.clamp_(-1, 1), "clamp"),
        (lambda m, x: F.leaky_relu(x, 0.2, True), "leaky_relu"),
        (lambda m, x: F.hardtanh(x, -2.0, 0.5), "hardtanh"),
        (lambda m, x: F.gelu(x, approximate="tanh"), "gelu"),
        (lambda m, x: F.softplus(x, 2), "softplus"),
        (lambda m, x: torch.sigmoid(x), "sigmoid"),
        (lambda m, x: x.tanh(), "tanh"),
        (lambda m, x: x**2, "pow"),
        (lambda m, x: x.pow(3), "pow"),
        (lambda m, x: -x, "neg"),
        (lambda m, x: abs(x), "abs"),
        (lambda m, x: x.exp(), "exp"),
        (lambda m, x: 1 / x, "reciprocal"),
        (lambda m, x: F.prelu(x, torch.full((1,), 0.2, dtype=torch.float64)), "prelu"),
    ],
)
def test_pointwise_functions(call, name):
    rule = only(call)
    assert rule.name in (name, "rdiv")
    check_pointwise(rule, lambda x: call(None, x.clone()))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m, x: x + m.conv(x), "add"),
        (lambda m, x: x.add(m.conv(x), alpha=2), "add"),
        (lambda m, x: torch.sub(x, m.conv(x)), "sub"),
        (lambda m, x: x * m.conv(x), "mul"),
        (lambda m, x: x / m.conv(x), "div"),
        (lambda m, x: torch.maximum(x, m.conv(x)), "maximum"),
        (lambda m, x: m.conv(x).add_(x), "add"),
        (lambda m, x: x + x, "add"),
    ],
)
def test_two_maps(call, name):
    graph = traced(Model(call, conv=nn.Conv2d(4, 4, 3, padding=1).double()))
    node = graph.nodes[graph.output]
    assert isinstance(node.rule, Binary) and node.rule.name == name and len(node.inputs) == 2
    values = values_of(graph, images())
    again = node.rule.function(*(values[i] for i in node.inputs))
    assert torch.equal(again, values[node.index]), "the inputs are in the rule's order"


def test_maps_that_are_broadcast_are_opaque():
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()).double()
    kinds = [type(rule) for rule in rules(traced(Model(lambda m, x: x * m.gate(x), gate=gate)))]
    assert kinds == [AvgPool, Conv, Pointwise, Opaque]


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: torch.cat([x, m.conv(x), x], 1),
        lambda m, x: torch.cat((x, m.conv(x), x), dim=-3),
        lambda m, x: torch.concat(dim=1, tensors=[x, m.conv(x), x]),
    ],
)
def test_concat(call):
    graph = traced(Model(call, conv=nn.Conv2d(4, 2, 1).double()))
    assert rules(graph)[-1] == Concat()
    assert graph.nodes[graph.output].inputs == (0, 1, 0)
    assert rules(traced(Model(lambda m, x: torch.cat([x, x], 2)))) == [Opaque()]


@pytest.mark.parametrize(
    "call",
    [
        nn.Identity(),
        nn.Dropout(),
        nn.Dropout2d(inplace=True),
        nn.AlphaDropout(),
        lambda m, x: F.dropout(x, 0.3, m.training),
        lambda m, x: F.dropout2d(x, training=False),
        lambda m, x: x.contiguous(),
        lambda m, x: x.clone(),
        lambda m, x: x.detach(),
        lambda m, x: x.to(torch.float64),
        lambda m, x: x.double(),
    ],
)
def test_identity(call):
    assert only(call) == Identity()


def test_another_dtype_is_no_identity():
    assert only(lambda m, x: x.float()) == Opaque()


@pytest.mark.parametrize(
    "call",
    [
        nn.Flatten(),
        nn.GroupNorm(2, 4),
        nn.PixelShuffle(2),
        lambda m, x: x.view(x.size(0), -1),
        lambda m, x: x.flatten(1),
        lambda m, x: x.cumsum(2),
        lambda m, x: torch.roll(x, 1, 3),
    ],
)
def test_everything_else_is_opaque(call):
    model = call if isinstance(call, nn.Module) else Model(call)
    assert rules(traced(model.double()))[-1] == Opaque()


# --- calls that treat pixels alone only together --------------------------------------------------


class ChannelsLast(nn.Module):
    """A ConvNeXt block's second half."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.wide, self.narrow = nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x):
        y = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        return (self.scale * y).permute(0, 3, 1, 2)


def normalised(m, x):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-6)


def shuffled(m, x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@pytest.mark.parametrize(
    "call",
    [
        shuffled,
        normalised,
        nn.ChannelShuffle(2),
        nn.Softmax2d(),
        ChannelsLast(),
        lambda m, x: x.chunk(2, dim=1)[1],
        lambda m, x: torch.split(x, [1, 3], 1)[1],
        lambda m, x: x[:, 1:3],
        lambda m, x: x[:, 2].unsqueeze(1),
        lambda m, x: x[:, [2, 0]],
        lambda m, x: x.softmax(1),
        lambda m, x: x.mean(1, keepdim=True),
        lambda m, x: x / x.norm(dim=1, keepdim=True),
        lambda m, x: F.normalize(x, dim=1),
        lambda m, x: x.flip(1),
        lambda m, x: F.layer_norm(x.movedim(1, -1), (4,)).movedim(-1, 1),
        lambda m, x: x.flatten(2).transpose(1, 2).softmax(2).transpose(1, 2).view(x.shape),
        lambda m, x: x.permute(0, 2, 3, 1)[..., 1:].permute(0, 3, 1, 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pixelwise(call, dtype):
    model = (call if isinstance(call, nn.Module) else Model(call)).to(dtype).eval()
    graph = traced(model, images().to(dtype))
    assert len(graph.nodes) == 2, "what it is made of is left out"
    rule = graph.nodes[1].rule
    assert isinstance(rule, Pixelwise) and graph.nodes[1].inputs == (0,)
    x = images().to(dtype)
    with torch.no_grad():
        window = rule.function(x[:, :, 2:7, 3:4])
        torch.testing.assert_close(window, model(x)[:, :, 2:7, 3:4])


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: x.flip(3),
        lambda m, x: x.softmax(2),
        lambda m, x: x - x.mean((2, 3), keepdim=True),
        lambda m, x: F.layer_norm(x, (4, 12, 10)),
        lambda m, x: x[:, :, :12],  # would crop larger maps
        lambda m, x: x.reshape(-1, 4, 12, 10),  # its size is written into it
        lambda m, x: x.view(x.size(0), 4, 10, 12).transpose(2, 3),
    ],
)
def test_not_pixelwise(call):
    x = images()
    assert not any(isinstance(rule, Pixelwise) for rule in rules(traced(Model(call), x)))


def test_work_of_a_chain():
    graph = traced(ChannelsLast().double())
    assert graph.fan_in(graph.nodes[1]) == (4 * 8 + 8 * 4) // 4


def test_a_layer_inside_a_chain_can_be_asked_for():
    net = ChannelsLast().double()
    assert trace(net, images()).layer("wide") is None
    assert trace(net, images(), ["wide"]).layer("wide").shape == (12, 10, 8)


# --- values that never change ---------------------------------------------------------------------


def test_in_place_calls_make_new_values():
    def forward(m, x):
        x = m.conv(x)
        y = m.identity(x)
        y.relu_()  # changes x too
        x += 1
        return x * 2

    model = Model(forward, conv=nn.Conv2d(4, 4, 3).double(), identity=nn.Identity())
    graph = traced(model)
    assert [type(rule) for rule in rules(graph)] == [Conv, Identity, Pointwise, Affine, Affine]
    assert [node.inputs for node in graph.nodes[1:]] == [(0,), (1,), (2,), (3,), (4,)]


def test_a_layer_is_what_it_returned_before_calls_in_place():
    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)).double()
    graph = traced(net)
    conv = graph.layer("0")
    assert isinstance(conv.rule, Conv)
    x = images()
    with torch.no_grad():
        assert torch.equal(values_of(graph, x)[conv.index], net[0](x))
    assert graph.layer("1").index == 2 and graph.layer("2") is graph.layer("")


def test_a_change_through_a_view_that_is_used_is_untraceable():
    def forward(m, x):
        y = m.conv(x)
        y[:, :2].relu_()
        return y

    with pytest.raises(Untraceable, match="conv is used after a call changed a part of it"):
        trace(Model(forward, conv=nn.Conv2d(4, 4, 3).double()), images())


def test_reused_modules():
    def forward(m, x):
        for _ in range(2):
            x = m.pool(m.relu(m.conv(x)))
        return x

    model = Model(
        forward,
        conv=nn.Conv2d(4, 4, 3, padding=1).double(),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, 2, ceil_mode=True),
    )
    graph = traced(model)
    assert [type(rule) for rule in rules(graph)] == [Conv, Pointwise, MaxPool] * 2
    assert [graph.layer(name).index for name in ("conv", "relu", "pool")] == [4, 5, 6]


def test_one_module_under_several_names():
    shared = nn.ReLU()
    graph = traced(nn.Sequential(shared, nn.AvgPool2d(2), shared))
    assert graph.layer("0") is graph.layer("2") is graph.nodes[3]


def test_what_nothing_depends_on_is_left_out():
    def forward(m, x):
        m.unused(x)
        return m.used(x)

    graph = traced(Model(forward, used=nn.Conv2d(4, 2, 1), unused=nn.Conv2d(4, 2, 1)).double())
    assert [node.name for node in graph.nodes] == ["x", "used"]
    assert graph.layer("unused") is None and graph.layer("nonsense") is None


def test_ends_at_a_layer():
    ran = []

    class Loud(nn.Module):
        def forward(self, x):
            ran.append(x)
            return x * 2

    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), Loud()).double()
    graph = trace(net, images(), ["1", "0"])
    assert [node.layers for node in graph.nodes] == [(), ("0",), ("1",)]
    assert graph.output == 2
    assert not any(isinstance(x, Tensor) for x in ran), "what comes after was run"
    assert not net[1]._forward_hooks
    assert len(trace(net, images(), ["1", "never called"]).nodes) == 4


def test_ends_where_all_branches_have_returned():
    def forward(m, x):
        return torch.cat([m.a(x), m.b(x), m.c(x)], 1)

    convolutions = {name: nn.Conv2d(4, 2, 1).double() for name in "abc"}
    graph = trace(Model(forward, **convolutions), images(), ["a", "b"])
    assert [node.name for node in graph.nodes] == ["x", "a", "b"]


def test_functions_may_view_what_is_not_contiguous():
    graph = traced(Model(lambda m, x: x.relu().view(x.size(0), -1)))
    channels_last = images(3).contiguous(memory_format=torch.channels_last)
    values = values_of(graph, channels_last)
    assert torch.equal(values[graph.output], channels_last.relu().flatten(1))


def test_subclasses():
    class Same(nn.Conv2d):
        """Adds nothing."""

    class Doubled(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight * 2, self.bias)

    class Odd(nn.MaxPool2d):
        def forward(self, x):
            return super().forward(x) + 1

    net = nn.Sequential(Same(4, 3, 3), Doubled(3, 2, 3), Odd(2)).double()
    graph = traced(net)
    assert [type(rule) for rule in rules(graph)] == [Conv, Conv, MaxPool, Affine]
    assert graph.nodes[1].rule.weight is net[0].weight
    assert torch.equal(graph.nodes[2].rule.weight, net[1].weight * 2)
    assert [graph.layer(name).index for name in "012"] == [1, 2, 4]


def test_a_forward_of_its_own_on_one_instance():
    pool = nn.MaxPool2d(2)
    pool.forward = lambda x: x.cumsum(2)
    assert rules(traced(nn.Sequential(pool)))[-1] == Opaque()


def test_parametrised_weights_are_read_as_they_are():
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3).double())
    net = nn.Sequential(conv)
    assert torch.equal(only(net).weight, conv.weight)


def test_weights_that_change_between_traces():
    """Graphs are remembered; what they hold must not be."""
    large = nn.utils.parametrizations.weight_norm(nn.Conv2d(64, 256, 3).double())
    net = nn.Sequential(nn.Conv2d(4, 64, 1).double(), large, nn.BatchNorm2d(256).double()).eval()
    for _ in range(2):
        conv, parametrised, affine = rules(trace(net, images()))
        assert conv.weight is net[0].weight
        assert torch.equal(parametrised.weight, large.weight)
        assert torch.allclose(affine.shift, net[2].bias)
        with torch.no_grad():
            large.parametrizations.weight.original1.mul_(2)
            net[2].bias.add_(1)
            net[0].weight.mul_(3)


def test_optional_arguments_keep_their_defaults():
    class Masked(nn.Module):
        def forward(self, x, mask=None, *more, scale=2.0):
            return x * scale if mask is None else x * mask

    assert isinstance(only(Masked()), Affine)


def test_modules_made_on_the_way():
    graph = traced(Model(lambda m, x: nn.ReLU()(nn.AvgPool2d(2)(x))))
    assert [type(rule) for rule in rules(graph)] == [AvgPool, Pointwise]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype):
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).to(dtype)
    affine = traced(net, images().to(dtype)).nodes[2].rule
    assert affine.scale.dtype == affine.shift.dtype == dtype


def test_layers_of_a_compiled_model():
    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU()).double().eval()
    graph = trace(torch.compile(net), images())
    assert isinstance(graph.layer("_orig_mod.0").rule, Conv)
    assert graph.layer("_orig_mod") is graph.layer("") is graph.layer("_orig_mod.1")
    inner = nn.Sequential(nn.Conv2d(4, 3, 3), torch.compile(nn.Sequential(nn.ReLU()))).double()
    assert isinstance(trace(inner.eval(), images()).layer("1").rule, Pointwise)


def test_weights_behind_a_number():
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(480, 5)).double()
    graph = traced(net)
    assert [graph.fan_in(node) for node in graph.nodes] == [0, 18, 0, 480]


# --- what cannot be traced ------------------------------------------------------------------------


def branches(m, x):
    return x * 2 if x.mean() > 0 else x


def assigns(m, x):
    x[:, 0] = 0
    return x


def counts(m, x):
    m.calls.add_(1)
    return x * 2


def batch_norm_in_training(m, x):
    return F.batch_norm(x, None, None, training=True)


REFUSED = {
    "control flow": (branches, "control flow"),
    "assignment": (assigns, "item assignment"),
    "two outputs": (lambda m, x: (x, x), "returns tuple"),
    "no output": (lambda m, x: None, "returns NoneType"),
    "one number": (lambda m, x: x.sum(), "must return a tensor"),
    "a constant": (lambda m, x: torch.ones(2, 3), "returns Tensor"),
    "dropout left on": (lambda m, x: F.dropout(x, 0.5), "random"),
    "noise": (lambda m, x: x + torch.rand(1), "random"),
    "noise like x": (lambda m, x: x + torch.randn_like(x), "random"),
    "Python's noise": (lambda m, x: x * random.random(), "random"),
    "batch statistics": (batch_norm_in_training, "statistics"),
    "looks at types": (lambda m, x: x if isinstance(x, Tensor) else x * 2, "answers otherwise"),
    "state": (counts, "its own parameters or buffers"),
    "out=": (lambda m, x: torch.mul(x, 2, out=x.new_empty(x.shape)) * 0 + x, None),
    "an error": (lambda m, x: m.missing(x), "AttributeError.*missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_untraceable_functions(name):
    forward, reason = REFUSED[name]
    model = Model(forward).eval()
    model.register_buffer("calls", torch.zeros(1))
    x = images()
    before = [dict(vars(m)) for m in model.modules()]
    states = torch.get_rng_state(), random.getstate()
    if reason is None:  # right or refused, but never wrong
        with contextlib.suppress(Untraceable):
            traced(model, x)
    else:
        with pytest.raises(Untraceable, match=reason):
            trace(model, x)
    assert [dict(vars(m)) for m in model.modules()] == before
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()


def hooked(register):
    conv = nn.Conv2d(4, 2, 3)
    getattr(conv, register)(lambda *_: None)
    return nn.Sequential(conv)


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ],
)
def test_hooks(register):
    with pytest.raises(Untraceable, match=r"'0' \(Conv2d\) has hooks"):
        trace(hooked(register).double(), images())


def test_old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conv = nn.utils.weight_norm(nn.Conv2d(4, 2, 3))
    with pytest.raises(Untraceable, match="hooks"):
        trace(nn.Sequential(conv).double(), images())


def test_global_hooks():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(Untraceable, match="global"):
            trace(nn.ReLU(), images())
    finally:
        handle.remove()


def test_script():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(Untraceable, match="the model is a ScriptModule"):
        trace(scripted, images())


def test_batch_norm_without_running_statistics():
    with pytest.raises(Untraceable, match="statistics"):
        trace(nn.BatchNorm2d(4, track_running_stats=False).double().eval(), images())


# --- no trace is left -----------------------------------------------------------------------------


def test_the_model_is_as_it_was():
    def forward(m, x):
        m.seen = x
        m.history.append(x)
        m.table["x"] = x
        return m.conv(x) * torch.ones(2, 1, 1, dtype=x.dtype)

    model = Model(forward, conv=nn.Conv2d(4, 2, 3).double(), history=[], table={}, seen=None)
    model.train()
    model.conv.eval()
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    trace(model, images())
    assert {name: dict(vars(m)) for name, m in model.named_modules()} == before
    assert model.history == [] and model.table == {} and model.seen is None
    assert model.training and not model.conv.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inside_inference_mode_and_with_gradients():
    x = images().requires_grad_()
    net = nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True)).double()
    trace(net, x)
    with torch.inference_mode():
        graph = trace(net, images())
    assert not values_of(graph, images())[graph.output].is_inference()


def test_no_warnings(recwarn):
    traced(nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU()).double())
    assert not recwarn.list


def test_others_may_run_their_models_meanwhile():
    """torch.fx patches nn.Module for everyone."""
    net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(20))).double().eval()
    other = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).double().eval()
    x, stop, failures = images(), threading.Event(), []

    def run():
        with torch.no_grad():
            expected = other(x)
            while not stop.is_set():
                try:
                    if not torch.equal(other(x), expected):
                        failures.append("another answer")
                except Exception as error:
                    failures.append(error)

    def trace_it():
        try:
            for _ in range(5):
                assert len(trace(net, x).nodes) == 21
        except Exception as error:
            failures.append(error)

    runner, tracers = threading.Thread(target=run), [threading.Thread(target=trace_it)] * 1
    tracers.append(threading.Thread(target=trace_it))
    runner.start()
    for thread in tracers:
        thread.start()
    for thread in tracers:
        thread.join()
    stop.set()
    runner.join()
    assert not failures


# --- whole networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [zfcuda.models.zfnet, zfcuda.models.squeezenet1_1])
def test_our_networks(make):
    net = make().eval()
    size = 224 if make is zfcuda.models.zfnet else 64
    graph = traced(net, torch.randn(1, 3, size, size))
    opaque = [node.name for node in graph.nodes if node.rule == Opaque()]
    assert opaque[0] == "flatten"
    assert {name for name, _ in net.named_modules() if graph.layer(name) is None} <= {"classifier"}


FEW = {  # the first call past which no cone leads
    "alexnet": "avgpool",
    "resnet18": "flatten",
    "squeezenet1_0": "flatten",
    "densenet121": "flatten",
    "googlenet": "flatten",
    "mobilenet_v2": "flatten",
    "mobilenet_v3_small": "mul",
    "convnext_tiny": "classifier_1",
    "shufflenet_v2_x0_5": "mean",
}


def check_torchvision(net, size=64):
    x = torch.randn(1, 3, size, size)
    graph = trace(net, x)
    with torch.no_grad():
        assert torch.equal(values_of(graph, x)[graph.output], net(x))
    return graph


@pytest.mark.parametrize("name", FEW)
def test_torchvision(torchvision_model, name):
    graph = check_torchvision(torchvision_model(name))
    assert next(node.name for node in graph.nodes if node.rule == Opaque()) == FEW[name]


MORE = [
    "convnext_small",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b4",
    "efficientnet_v2_s",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v3_large",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "shufflenet_v2_x1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vit_b_16",
    "wide_resnet50_2",
]


def test_torchvision_with_its_own_normalisation(torchvision_model):
    graph = check_torchvision(torchvision_model("googlenet", transform_input=True))
    assert next(node.name for node in graph.nodes if node.rule == Opaque()) == "flatten"


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_of_torchvision(torchvision_model, name):
    sizes = {"inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224}
    check_torchvision(torchvision_model(name), sizes.get(name, 64))
