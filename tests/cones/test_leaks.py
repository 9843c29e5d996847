"""Calls that reach further than their rules say are told by NaN; no others."""

import gc
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import LAYER, TORCHVISION, ZOO, Model

import zfcuda
from zfcuda.cones import leaks
from zfcuda.cones.leaks import leak
from zfcuda.graph import Graph, trace
from zfcuda.graph.rules import Affine, Conv, Identity, MaxPool, Pixelwise, Pointwise

DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def image(dtype=torch.float64, size=(20, 17), channels=3):
    return torch.randn(1, channels, *size).to(dtype)


def spoiled(graph: Graph, kind, change) -> Graph:
    """The graph with other rules for the calls of one kind."""
    nodes = tuple(
        replace(node, rule=change(node.rule)) if isinstance(node.rule, kind) else node
        for node in graph.nodes
    )
    return Graph(nodes, graph.output)


def smaller(rule):
    return replace(rule, weight=rule.weight[..., 1:-1, 1:-1])


SPOILED = {
    "smaller convolution": (Conv, smaller),
    "shifted convolution": (Conv, lambda rule: replace(rule, padding=(0, 0))),
    "pointwise pool": (MaxPool, lambda rule: replace(rule, kernel=(1, 1))),
    "convolution as nothing": (Conv, lambda rule: Identity()),
}


def test_maps_whose_channels_are_one_place_in_memory():
    def grey(m, x):
        x = x.permute(0, 2, 3, 1).mean(-1, keepdim=True).expand(-1, -1, -1, 3)
        return x.permute(0, 3, 1, 2).mean((2, 3))

    net = Model(grey)
    assert leak(trace(net.eval(), image()), image()) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SPOILED)
def test_wrong_rules_are_told(kind, dtype):
    net = Model(
        lambda m, x: F.max_pool2d(m.tail(F.relu(m.first(x))), 3, 1, 1).mean((2, 3)),
        first=nn.Conv2d(3, 4, 3, padding=1),
        tail=nn.Conv2d(4, 4, 3, padding=1),
    ).to(dtype)
    x = image(dtype)
    graph = trace(net.eval(), x)
    assert leak(graph, x) == ""
    wrong, change = SPOILED[kind]
    first = next(node for node in graph.nodes if isinstance(node.rule, wrong))
    assert leak(spoiled(graph, wrong, change), x) == (first.layers or [first.name])[0]


def test_late_calls_are_seen_as_well_as_early_ones():
    """Where what a pixel of the image changes is everything."""
    net = nn.Sequential(*(nn.Conv2d(3, 3, 9, padding=4).double() for _ in range(5)))
    x = image()
    graph = trace(net.eval(), x)
    last = graph.nodes[graph.output]
    nodes = (*graph.nodes[:-1], replace(last, rule=smaller(last.rule)))
    assert leak(Graph(nodes, graph.output), x) == "4"


def test_a_call_that_looks_at_everything():
    net = Model(lambda m, x: m.tail(x).tanh(), tail=nn.Conv2d(3, 4, 3).double())
    x = image()
    graph = trace(net.eval(), x)
    last = graph.nodes[graph.output]
    centred = replace(
        last, rule=Pointwise("tanh", torch.tanh), function=lambda t: t - t.mean((2, 3), True)
    )
    assert leak(Graph((*graph.nodes[:-1], centred), graph.output), x) == last.name


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_the_image_itself_leads_to_is_no_leak(value):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2))
    x = image(torch.float32)
    graph = trace(net.eval(), x)
    x[0, :, ::5, 3] = value
    assert leak(graph, x) == ""


def test_overflow_is_no_leak():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    net.half().get_parameter("0.weight").data.mul_(1e4)
    x = image(torch.float16)
    assert leak(trace(net.eval(), x), x) == ""


def test_zero_times_nan_is_no_leak():
    """A kernel may give a pixel the weight zero; then nothing depends on it."""
    net = nn.Conv2d(3, 3, 3, padding=1).double()
    x = image()
    with torch.no_grad():
        weight = net.weight.clone()
        net.weight.zero_()[:, :, 1, 1] = weight[:, :, 1, 1]
    graph = spoiled(trace(net.eval(), x), Conv, lambda rule: Pixelwise("conv2d", net))
    assert leak(graph, x) == ""
    net.weight.data[0, 0, 0, 0] = 1e-3
    graph = spoiled(trace(net.eval(), x), Conv, lambda rule: Pixelwise("conv2d", net))
    assert leak(graph, x) == graph.nodes[-1].name


def test_values_that_share_memory():
    """A map, and views of it, each with a NaN in its own middle."""

    def run(m, x):
        y = m.tail(x)
        return torch.cat([y[:, :, 1:-1, 1:-1], m.tail(y), y.flip(3)[:, :, 2:, 2:]], 1) * 2

    net = Model(run, tail=nn.Conv2d(3, 3, 3).double())
    x = image()
    kept = x.clone()
    assert leak(trace(net.eval(), x), x) == ""
    assert torch.equal(x, kept)


def test_it_is_asked_once_for_as_long_as_the_graph_lives(monkeypatch):
    net, x = nn.Conv2d(3, 4, 3).double().eval(), image()
    graph = trace(net, x)
    passes = []
    monkeypatch.setattr(leaks, "_called", lambda n, v: passes.append(n) or n.evaluate(v))
    other = spoiled(graph, Affine, replace)
    reference = weakref.ref(other)
    assert leak(other, x) == leak(other, x) == ""
    assert len(passes) == len(graph.nodes) - 1
    del other, passes[:]
    gc.collect()
    assert reference() is None


# --- whole networks -------------------------------------------------------------------------------


def refused(net, x) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return leak(trace(net.eval(), x), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("network", ZOO)
def test_no_network_of_the_zoo(network, memory, dtype):
    if network.__name__ == "Normed" and dtype is torch.bfloat16:
        pytest.skip("torch has no max_unpool2d of bfloat16")
    net = network().to(dtype).to(memory_format=memory)
    assert refused(net, image(dtype, (32, 32)).to(memory_format=memory)) == ""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["alexnet", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_no_network_of_torchvision(torchvision_model, name, dtype):
    assert refused(torchvision_model(name).to(dtype), image(dtype, (96, 96))) == ""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", TORCHVISION)
def test_no_network_of_torchvision_at_all(torchvision_model, name, memory, dtype):
    net = torchvision_model(name).to(dtype).to(memory_format=memory)
    assert refused(net, image(dtype, (96, 96)).to(memory_format=memory)) == ""


# --- what is done about it ------------------------------------------------------------------------


@pytest.fixture
def wrong(monkeypatch):
    """Convolutions whose rectangles are too small."""
    reached = leaks.forward_boxes

    def too_small(rule, boxes, *sizes):
        found = reached(rule, boxes, *sizes)
        return np.add(found, [[0, 0, 0, -1]]) if isinstance(rule, Conv) else found

    monkeypatch.setattr(leaks, "forward_boxes", too_small)


@pytest.mark.usefixtures("wrong")
def test_occlusion_runs_dense_passes_then():
    net, x = ZOO[0]().double(), image(size=(33, 31))
    said = r"dense passes, since .*features\.0 changes more than its rule says"
    with pytest.warns(UserWarning, match=said) as told:
        found = zfcuda.occlusion(net, x, size=5, stride=7)
    assert len(told) == 1 and told[0].filename == __file__
    dense = zfcuda.occlusion(net, x, size=5, stride=7, method="dense")
    assert found.method == "dense"
    assert torch.equal(found.logits, dense.logits)
    with pytest.raises(ValueError, match=r"features\.0 changes more than its rule says"):
        zfcuda.occlusion(net, x, size=5, stride=7, method="cone")


@pytest.mark.usefixtures("wrong")
def test_projections_go_by_autograd_then():
    net, x = ZOO[0]().double(), image(size=(33, 31))
    with pytest.warns(UserWarning, match=r"autograd, since features\.0 changes") as told:
        found = zfcuda.deconv(net, x, LAYER)
    assert len(told) == 1 and told[0].filename == __file__
    assert found.shape[-3:] == x.shape[-3:]
