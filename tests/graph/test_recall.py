"""A model's graph is found again only while everything that it was made of is as it was."""

from __future__ import annotations

import gc
import weakref
from functools import partial

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


def own_error(x: Tensor) -> Tensor:
    try:
        raise KeyError
    except KeyError:
        return x * 2


def of_a_call(call):
    """A model that catches the call's error."""

    def forward(x: Tensor) -> Tensor:
        try:
            return call(x)
        except (RuntimeError, IndexError, NotImplementedError):
            return x * 2

    return forward


AGAIN = {
    "ones": lambda x: x * torch.ones(4, 1, 1),
    "like it": lambda x: torch.zeros_like(x) + x,
    "numbers": lambda x: x + torch.arange(x.shape[3]),
    "an identity": lambda x: x @ torch.eye(x.shape[3]),
    "written down": lambda x: x * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None],
    "moved": lambda x: x + torch.full((1,), 2.0).to(x),
    "read as a list": lambda x: x * torch.tensor([1.0, 2.0]).tolist()[1],
    "read as an array": lambda x: x * float(torch.ones(2, 2)[0].numpy().sum()),
    "an error of its own": own_error,
    "a sum's error": of_a_call(lambda x: x + x[..., :3]),
    "a convolution's error": of_a_call(lambda x: torch.conv2d(x, torch.ones(4, 3, 1, 1))),
    "a product's error": of_a_call(lambda x: torch.matmul(x, torch.ones(3, 3))),
    "a view's error": of_a_call(lambda x: x.permute(0, 2, 3, 1).view(-1)),
    "a type's error": of_a_call(lambda x: torch.bitwise_not(x)),
}


@pytest.mark.parametrize("forward", AGAIN.values(), ids=AGAIN.keys())
def test_made_tensors_and_errors_that_are_caught(forward, x):
    net = Model(lambda m, x: m.last(forward(m.conv(x))), conv=nn.Conv2d(3, 4, 3), last=nn.ReLU())
    graph = trace(net.eval(), x)
    assert trace(net, torch.randn(1, 3, 8, 8)) is graph
    torch.testing.assert_close(values_of(graph, x)[graph.output], net(x))


def test_an_error_that_is_no_longer_there(x):
    sizes = [3]
    forward = of_a_call(lambda x: x + x[..., : sizes[0]])
    net = Model(lambda m, x: forward(m.conv(x)), conv=nn.Conv2d(3, 4, 3)).eval()
    graph = trace(net, x)
    sizes[0] = 6
    again = trace(net, x)
    assert again is not graph
    torch.testing.assert_close(values_of(again, x)[again.output], net(x))


def test_a_weight_in_other_memory(net, x):
    graph = trace(net, x)
    net.conv.weight.data = net.conv.weight.data.clone()
    assert trace(net, x) is graph  # of the same numbers
    net.conv.weight.data.mul_(2)
    again = trace(net, x)
    torch.testing.assert_close(values_of(again, x)[again.output], net(x))


def attribute(net: nn.Module) -> None:
    net.conv.weight.owner = net


def module(net: nn.Module) -> None:
    net.conv.owners = [net]


def hook(net: nn.Module) -> None:
    net.conv.weight.register_hook(lambda grad: net and grad)


def buffer(net: nn.Module) -> None:
    net.norm.running_mean.owner = net


def a_class(net: nn.Module) -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if net is not None else x

    net.norm.forward = Own()


def hung(hang) -> nn.Module:
    net = make_net()
    hang(net)
    return net


MAKERS = {"net": make_net, "one module": lambda: nn.Conv2d(3, 4, 3)} | {
    hang.__name__: partial(hung, hang) for hang in (attribute, module, hook, buffer, a_class)
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_no_model_is_kept_alive(make, x):
    net = make().eval()
    graph = trace(net, x)
    assert trace(net, x) is graph
    del graph
    zfcuda.deconv(net, x, "")
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
