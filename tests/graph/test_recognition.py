"""Every rule in every spelling."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from traces import Model, images, lies_in, only, rules, traced, values_of

import zfcuda
from zfcuda.graph import rules as kinds


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
    model = Model(call, conv=nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), groups=2).double())
    rule = only(model)
    assert isinstance(rule, kinds.Conv)
    assert lies_in(rule.weight, model.conv.weight), "live, not copied"
    assert lies_in(rule.bias, model.conv.bias)
    assert (rule.stride, rule.padding, rule.dilation) == ((2, 1), (1, 0), (1, 2))
    assert rule.groups == 2 and rule.kernel == (3, 2)


@pytest.mark.parametrize(
    ("padding", "kernel", "expected"),
    [("same", (3, 5), (2, 4)), ("valid", (3, 5), (0, 0)), ("same", (2, 3), None)],
)
def test_named_padding(padding, kernel, expected):
    dilation = 2 if expected else 1
    conv = nn.Conv2d(4, 2, kernel, padding=padding, dilation=dilation).double()
    if expected:
        assert only(conv).padding == expected
    else:  # one more below than above
        assert [type(rule) for rule in rules(traced(conv))] == [kinds.Rearrangement, kinds.Conv]


def averages(kernel):
    """Of windows side by side."""
    return kinds.AvgPool(kernel, kernel, (0, 0), False, True, None)


def maxima(kernel):
    return kinds.MaxPool(kernel, kernel, (0, 0), (1, 1), False)


POOL = kinds.MaxPool((3, 3), (2, 1), (1, 1), (2, 2), True)
MEAN = kinds.GlobalPool("mean", (12, 10), True)
AVERAGE = kinds.AvgPool((3, 2), (2, 2), (1, 0), True, False, 5)
LRN = kinds.Lrn(3, 0.5, 0.7, 2.0)
EXPECTED = [
    (POOL, nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True)),
    (POOL, zfcuda.nn.MaxPool2d(3, (2, 1), 1, 2, ceil_mode=True)),
    (POOL, lambda m, x: F.max_pool2d(x, 3, (2, 1), 1, 2, ceil_mode=True)),
    (POOL, lambda m, x: torch.max_pool2d(x, 3, (2, 1), 1, 2, True)),
    (replace(maxima((3, 3)), relu=True), zfcuda.nn.MaxPool2d(3, relu=True)),
    (AVERAGE, nn.AvgPool2d((3, 2), 2, (1, 0), True, False, 5)),
    (AVERAGE, lambda m, x: F.avg_pool2d(x, (3, 2), 2, (1, 0), True, False, 5)),
    (averages((2, 2)), nn.AdaptiveAvgPool2d((6, 5))),
    (averages((1, 2)), nn.AdaptiveAvgPool2d((None, 5))),
    (MEAN, nn.AdaptiveAvgPool2d(1)),
    (averages((4, 5)), lambda m, x: F.adaptive_avg_pool2d(x, (3, 2))),
    (MEAN, lambda m, x: x.mean((2, 3), keepdim=True)),
    (MEAN, lambda m, x: torch.mean(x, [-1, -2], True)),
    (maxima((2, 2)), nn.AdaptiveMaxPool2d((6, 5))),
    (maxima((12, 10)), lambda m, x: x.amax((2, 3), keepdim=True)),
    (kinds.Identity(), nn.AdaptiveAvgPool2d((12, 10))),
    (kinds.GlobalPool("mean", (12, 10), False), lambda m, x: x.mean((2, 3))),
    (kinds.Opaque(), lambda m, x: x.mean((1, 2), keepdim=True)),
    (LRN, nn.LocalResponseNorm(3, 0.5, 0.7, 2.0)),
    (LRN, zfcuda.nn.LocalResponseNorm(3, 0.5, 0.7, 2.0)),
    (kinds.Lrn(3, 1e-4, 0.75, 2.0), lambda m, x: F.local_response_norm(x, 3, k=2.0)),
    (kinds.Identity(), lambda m, x: x.detach()),
    (kinds.Opaque(), nn.Flatten()),
    (kinds.Opaque(), nn.GroupNorm(2, 4).double()),
    (kinds.Opaque(), lambda m, x: x.flatten(1)),
    (kinds.Opaque(), lambda m, x: x.cumsum(2)),
]


@pytest.mark.parametrize(("expected", "call"), EXPECTED)
def test_a_call_is_recognised(expected, call):
    assert only(call) == expected


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_padding_copies_pixels(mode):
    conv = nn.Conv2d(4, 2, 3, padding=1, padding_mode=mode).double()
    assert [type(rule) for rule in rules(traced(conv))] == [kinds.Rearrangement, kinds.Conv]


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
        lambda m, x: x.to(torch.float64),
        lambda m, x: x.double(),
    ],
)
def test_what_changes_nothing_is_no_call(call):
    model = nn.Sequential(nn.ReLU(), call if isinstance(call, nn.Module) else Model(call))
    graph = traced(model)
    assert len(graph.nodes) == 2 and graph.layer("1") is graph.layer("0")


def test_opaque_calls_with_others():
    graph = traced(Model(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[1].double()))
    assert all(rule == kinds.Opaque() for rule in rules(graph)[:-1])
    graph = traced(Model(lambda m, x: F.max_pool2d(x, 2, return_indices=True)[0]))
    assert rules(graph) == [maxima((2, 2))]
    assert rules(traced(Model(lambda m, x: x.view(x.size(0), -1))))[-1] == kinds.Opaque()


def test_pool_of_the_size_it_meets():
    graph = traced(Model(lambda m, x: F.avg_pool2d(x, x.shape[2:])))
    assert rules(graph)[-1] == MEAN
    assert graph.nodes[graph.output].inputs == (0,), "the size is not a value of the pool"
    assert all(rule == kinds.Shape() for rule in rules(graph)[:-1])


def affine_error(rule: kinds.Affine, call, x: Tensor) -> float:
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
        assert isinstance(rule, kinds.Affine) and affine_error(rule, norm, images()) < 1e-12

        def functional(m, x, norm=norm):
            return F.batch_norm(
                x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
            )

        rule = only(functional)
        assert isinstance(rule, kinds.Affine) and affine_error(rule, norm, images()) < 1e-12


PER_CHANNEL = [
    lambda m, x: x * m.p,
    lambda m, x: m.p * x,
    lambda m, x: x + m.p,
    lambda m, x: m.p - x,
    lambda m, x: x.sub(m.p),
    lambda m, x: x / m.p,
    lambda m, x: torch.mul(x, m.p),
]
BY_NUMBERS = [
    lambda m, x: x * 2,
    lambda m, x: 1 - x,
    lambda m, x: x / 255.0,
    lambda m, x: x.add(3),
    lambda m, x: torch.rsub(x, 2.0),
    lambda m, x: x * torch.tensor(2.0),
    lambda m, x: x.mul_(2),
    lambda m, x: x.add_(1.5),
]


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)], ids=str)
@pytest.mark.parametrize("call", [*PER_CHANNEL, *BY_NUMBERS])
def test_scales_and_shifts(call, shape):
    values = torch.tensor([0.5, -1.0, 2.0, 3.0], dtype=torch.float64)
    model = Model(call, p=nn.Parameter(values.view(shape)))
    rule = only(model)
    assert isinstance(rule, kinds.Affine)
    assert affine_error(rule, lambda x: call(model, x.clone()), images()) < 1e-12


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.conv(x) * torch.ones(4, 1, 1),  # makes channels
        lambda m, x: x.permute(0, 2, 3, 1) * torch.ones(12, 10, 1),  # not where pixels lie
    ],
)
def test_what_is_not_per_channel_is_opaque(call):
    conv = nn.Conv2d(4, 1, 1).double()
    assert isinstance(rules(traced(Model(call, conv=conv)))[-1], kinds.Opaque | kinds.Pixelwise)


def check_pointwise(rule, call):
    assert isinstance(rule, kinds.Pointwise)
    x = images()
    kept = x.clone()
    with torch.no_grad():
        expected = call(x)
        assert torch.allclose(rule.function(x), expected, 1e-12, 1e-12)
        assert torch.equal(x, kept), "out of place"


ACTIVATIONS = [
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
]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=repr)
def test_activation_modules(module):
    check_pointwise(only(module.double()), lambda x: module(x.clone()))


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
        (lambda m, x: x.reciprocal(), "reciprocal"),
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
    assert isinstance(node.rule, kinds.Binary) and node.rule.name == name and len(node.inputs) == 2
    values = values_of(graph, images())
    again = node.rule.function(*(values[i] for i in node.inputs))
    assert torch.equal(again, values[node.index]), "the inputs are in the rule's order"


def test_maps_that_are_broadcast_are_opaque():
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.Sigmoid()).double()
    found_kinds = [
        type(rule) for rule in rules(traced(Model(lambda m, x: x * m.gate(x), gate=gate)))
    ]
    assert found_kinds == [kinds.GlobalPool, kinds.Conv, kinds.Pointwise, kinds.Opaque]


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
    assert rules(graph)[-1] == kinds.Concat()
    assert graph.nodes[graph.output].inputs == (0, 1, 0)
