"""Graphs against the models themselves: values, layers, modules and their weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traces import Model, images, lies_in, only, rules, traced, values_of

from zfcuda.graph import fan_in, trace
from zfcuda.graph.rules import Affine, AvgPool, Conv, MaxPool, Opaque, Pointwise


def test_in_place_calls_make_new_values():
    def forward(m, x):
        x = m.conv(x)
        y = m.identity(x)
        y.relu_()  # changes x too
        x += 1
        return x * 2

    model = Model(forward, conv=nn.Conv2d(4, 4, 3).double(), identity=nn.Identity())
    graph = traced(model)
    assert [type(rule) for rule in rules(graph)] == [Conv, Pointwise, Affine, Affine]
    assert [node.inputs for node in graph.nodes[1:]] == [(0,), (1,), (2,), (3,)]
    assert graph.layer("identity") is graph.layer("conv")


def test_a_layer_is_what_it_returned_before_calls_in_place():
    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)).double()
    graph = traced(net)
    conv = graph.layer("0")
    assert isinstance(conv.rule, Conv)
    x = images()
    with torch.no_grad():
        assert torch.equal(values_of(graph, x)[conv.index], net[0](x))
    assert graph.layer("1").index == 2 and graph.layer("2") is graph.layer("")


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
    loud = Model(lambda m, x: ran.append(len(x)) or x * 2)
    net = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), loud).double()
    graph = trace(net, images(), ["1", "0"])
    assert [node.layers for node in graph.nodes] == [(), ("0",), ("1",)]
    assert graph.output == 2
    assert ran == [1], "once, to see whether the layer is called again"
    assert trace(net, images(), ["1", "0"]) is graph
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


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("kernel", ["attention", "lstm"])
def test_kernels_that_do_not_look_how_tokens_lie(kernel, copied):
    """A record leaves copies out, and with them the order that they make."""

    def forward(m, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens.contiguous() if copied else tokens
        if kernel == "lstm":
            return m.lstm(tokens)[0].mean(1)
        q, k, v = tokens[:, None].split(4, 3)
        return F.scaled_dot_product_attention(q, k, v).mean((1, 2))

    model = Model(forward, lstm=nn.LSTM(12, 5, batch_first=True))
    x = images(channels=12).float()
    model.eval()
    graph = trace(model, x)
    with torch.no_grad():
        torch.testing.assert_close(values_of(graph, x)[graph.output], model(x))


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
    assert lies_in(graph.nodes[1].rule.weight, net[0].weight)
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
        assert lies_in(conv.weight, net[0].weight)
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
    assert [fan_in(node) for node in graph.nodes] == [0, 18, 0, 480]
