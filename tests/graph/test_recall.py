"""A model's graph is found again only while everything that it was made of is as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from traces import values_of
from zoo import Model

import zfcuda
from zfcuda.graph import trace

FLAGS = {"rectify": True}


def make_net() -> nn.Module:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        x = m.norm(m.conv(x)) * m.slope + m.shift
        return x.relu() if FLAGS["rectify"] else x

    layers = {"conv": nn.Conv2d(3, 4, 3), "norm": nn.BatchNorm2d(4)}
    return Model(forward, **layers, slope=nn.Parameter(torch.ones(4, 1, 1)), shift=1.0)


@pytest.fixture
def net(monkeypatch):
    monkeypatch.setitem(FLAGS, "rectify", True)
    return make_net().eval()


@pytest.fixture
def x():
    return torch.randn(1, 3, 8, 8)


def test_the_same_model_keeps_its_graph(net, x):
    graph = trace(net, x)
    assert trace(net, torch.randn(1, 3, 8, 8)) is graph
    assert trace(net, x, ["conv"]) is not graph
    assert trace(net, x) is graph


CHANGES = {
    "batch norm's statistics": lambda net: net.norm.running_mean.fill_(2.0),
    "behind autograd's back": lambda net: net.norm.bias.data.add_(1.0),
    "a parameter that becomes a number": lambda net: net.slope.data.mul_(3.0),
    "an attribute": lambda net: setattr(net, "shift", 2.0),
    "a module's setting": lambda net: setattr(net.conv, "stride", (2, 2)),
    "a module": lambda net: setattr(net, "norm", nn.Identity()),
    "a weight": lambda net: setattr(net.conv, "weight", nn.Parameter(net.conv.weight * 2)),
    "the world": lambda net: FLAGS.update(rectify=False),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_model_is_traced_anew(change, net, x):
    graph = trace(net, x)
    with torch.no_grad():
        change(net)
        again = trace(net, x)
        assert again is not graph
        torch.testing.assert_close(values_of(again, x)[again.output], net(x))


def test_a_list_that_is_changed_where_it_is(net, x):
    net.conv.stride = [1, 1]
    graph = trace(net, x)
    net.conv.stride[0] = 2
    assert trace(net, x) is not graph


def test_large_weights_are_read_where_they_are(net, x):
    net.conv = nn.Conv2d(3, 4, (129, 129), padding=64)  # too large to be compared
    graph = trace(net, x)
    with torch.no_grad():
        net.conv.weight.mul_(2)
        assert trace(net, x) is graph
        torch.testing.assert_close(values_of(graph, x)[graph.output], net(x))


@pytest.mark.parametrize(
    "other",
    [torch.zeros(1, 3, 9, 8), torch.zeros(1, 3, 8, 8).double()],
    ids=["size", "dtype"],
)
def test_other_images_are_traced_anew(other, net, x):
    graph = trace(net, x)
    net.to(other.dtype)
    assert trace(net, other) is not graph


@pytest.mark.parametrize("make", [make_net, lambda: nn.Conv2d(3, 4, 3)], ids=["net", "one module"])
def test_no_model_is_kept_alive(make, x):
    net = make().eval()
    zfcuda.deconv(net, x, "")
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
