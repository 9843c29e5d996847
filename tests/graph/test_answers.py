"""Spellings that once had other numbers in cones than in whole passes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda
from zfcuda.graph import trace


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Through(torch.autograd.Function):
    """Rounds, and hands signals through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


class Same(torch.autograd.Function):
    """Returns what it is given, and has its context elsewhere."""

    @staticmethod
    def forward(x):
        return x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = -2

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor


class Halves(torch.autograd.Function):
    """Changes what it is given, and hands signals through as they are."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.div_(2), x > 0

    @staticmethod
    def backward(ctx, grad, _):
        return grad


def by_parts(x):
    """A channels-last layer with a ReLU in it."""
    weight = torch.linspace(-1, 1, 16, dtype=x.dtype).view(4, 4)
    return F.linear(F.linear(x.permute(0, 2, 3, 1), weight).relu(), weight.T).permute(0, 3, 1, 2)


CALLS = {
    "times its transpose": lambda x: x * x.transpose(2, 3),
    "the larger of both": lambda x: torch.maximum(x, x.transpose(2, 3)),
    "by the transpose": lambda x: x / (1 + x.transpose(2, 3).abs()),
    "sum with it": lambda x: (x + x.transpose(2, 3)) * x,
    "channels as rows": lambda x: x[:, :, :4, :4] * x[:, :, :4, :4].transpose(1, 2),
    "channels last": lambda x: F.pad(x[:, :, :4, :4] * x[:, :, :4, :4].permute(0, 2, 3, 1), (1, 1)),
    "rolled flat": lambda x: x.roll(1),
    "gradient reversal": Reversed.apply,
    "times straight through": lambda x: x * Through.apply(x),
    "times itself with a backward of its own": lambda x: x * Same.apply(x),
    "halved in place with a backward of its own": lambda x: Halves.apply(x + 1)[0] * x,
    "ReLU6 in a product": lambda x: x * F.relu6(x + 3) / 6,
    "ReLU times itself": lambda x: F.relu(x) * x,
    "ReLU on other axes": by_parts,
    "group norm of a slice": lambda x: F.group_norm(x[:, 1:3], 2).repeat(1, 2, 1, 1),
    "a share of positives": lambda x: x / (x > 0).sum((2, 3), keepdim=True).clamp(min=1),
    "tiny": lambda x: x * 1e-6 / 3e-6,
    "one row": lambda x: x.amax(2, keepdim=True).transpose(2, 3).flatten(2).unsqueeze(-1),
}


class Net(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.call = call
        self.stem, self.tail = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.call(self.stem(x))).flatten(2).amax(2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_cones_say_what_whole_passes_say(call):
    net, x = Net(call).double().eval(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    cones, dense = (
        zfcuda.occlusion(net, x, size=3, stride=3, method=method) for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rule", ["deconv", "gradient"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_projections_are_those_of_the_whole_backward_pass(call, rule):
    net, x = Net(call).double().eval(), torch.randn(1, 3, 12, 12, dtype=torch.float64)
    found = zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0)
    net.tail.register_forward_hook(lambda *_: None)  # which no cone is told of
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule=rule, seed=1.0))


@pytest.mark.parametrize(("size", "to"), [(45, 129), (3, 141), (21, 133), (12, 7)])
def test_nearest_pixels_are_those_of_the_maps_type(size, to):
    """Kernels calculate them in it, and round."""

    class Enlarged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x * 1.0, (to, to)).flatten(1)[:, ::97]

    x = torch.randn(1, 1, size, size)
    cones, dense = (
        zfcuda.occlusion(Enlarged().eval(), x, size=1, stride=size // 3, method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)


def test_weights_that_moved_to_other_memory_are_read_there():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 30)).eval()
    x = torch.randn(1, 3, 32, 32)
    zfcuda.occlusion(net, x, size=8, stride=8, method="cone")
    net[2].weight.data = torch.randn(30, 3600)
    found = zfcuda.occlusion(net, x, size=8, stride=8, method="cone")
    torch.testing.assert_close(found.base_logits, net(x).detach(), rtol=1e-3, atol=1e-3)


def test_which_module_makes_a_call_is_part_of_it():
    which = {"first": True}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x) if which["first"] else self.b(x)
            return (self.b(x + 1) if which["first"] else self.a(x + 1)).flatten(1)

    net, x = Net().eval(), torch.randn(1, 3, 8, 8)
    before = trace(net, x).layer("a").index
    which["first"] = False
    assert trace(net, x).layer("a").index != before


def test_numpy_looks_at_values():
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - float(x.numpy().min())).flatten(1)

    with pytest.warns(UserWarning, match="outside of torch"):
        found = zfcuda.occlusion(Looks().eval(), torch.rand(1, 3, 8, 8), size=4, stride=4)
    assert found.method == "dense"
    assert isinstance(torch.ones(1).numpy().item(), float) and torch.ones(1).tolist() == [1.0]
