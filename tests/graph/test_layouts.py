"""Networks that work in other layouts than [n,C,h,w] are followed as if they did not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import Model, images, traced

import zfcuda
from zfcuda.experiments.deconvnet import engines
from zfcuda.graph.rules import Binary, Concat, Conv, GlobalPool, Opaque

# A layout: how a map gets into it, and back given (h, w).
LAYOUTS = {
    "channels last": (lambda x: x.permute(0, 2, 3, 1), lambda x, h, w: x.permute(0, 3, 1, 2)),
    "tokens": (
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x, h, w: x.transpose(1, 2).unflatten(2, (h, w)),
    ),
    "rows first": (lambda x: x.permute(2, 0, 3, 1), lambda x, h, w: x.permute(1, 3, 0, 2)),
}


class Stream(nn.Module):
    """Residual blocks in a layout, with a convolution inside that leaves it."""

    def __init__(self, layout: str, joins: list[str], channels: int = 4) -> None:
        super().__init__()
        self.into, self.back = LAYOUTS[layout]
        self.joins = joins
        self.stem = nn.Conv2d(3, channels, 3, stride=2)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in joins)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in joins)
        self.mixes = nn.ModuleList(nn.Linear(2 * channels, channels) for _ in joins)
        self.head = nn.Linear(channels, 5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h, w = x.shape[2:]
        x = self.into(x)
        for join, norm, conv, mix in zip(
            self.joins, self.norms, self.convs, self.mixes, strict=True
        ):
            y = norm(x)
            moved = self.into(conv(self.back(y, h, w)))
            match join:
                case "cat":
                    x = mix(torch.cat([moved, y.relu()], -1))
                case "mul":
                    x = x + y.sigmoid() * moved
                case "sub":
                    x = torch.sub(x, moved, alpha=2)
                case "add":
                    x = moved + x
                case "halves":  # of one value, so that a chain goes over all of them
                    a, b = torch.cat([moved, y], -1).chunk(2, -1)
                    x = a * b.sigmoid()
        return self.head(self.back(x, h, w).mean((2, 3)))


def picture(h: int = 15, w: int = 13, n: int = 1) -> Tensor:
    return torch.randn(n, 3, h, w, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([*LAYOUTS]),
    st.lists(st.sampled_from(["cat", "mul", "sub", "add", "halves"]), min_size=1, max_size=3),
    st.integers(9, 16),
    st.integers(9, 16),
)
def test_cones_of_streams(layout, joins, h, w):
    net, x = Stream(layout, joins), picture(h, w)
    wanted = zfcuda.occlusion(net, x, size=3, stride=3, method="dense")
    found = zfcuda.occlusion(net, x, size=3, stride=3, method="cone")
    assert torch.allclose(found.logits, wanted.logits, 1e-10, 1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_barrier_before_the_end(layout):
    graph = traced(Stream(layout, ["cat", "mul", "sub", "add"]), picture(n=2))
    barriers = [node.index for node in graph.nodes if isinstance(node.rule, Opaque)]
    last = max(node.index for node in graph.nodes if isinstance(node.rule, Binary | Concat | Conv))
    assert min(barriers) > last
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rule", ["deconv", "gradient"])
def test_projections(layout, rule, monkeypatch):
    net, x = Stream(layout, ["sub", "add"]), picture()
    found = zfcuda.deconv(net, x, "convs.1", rule=rule, k=3)
    assert engines.followed(net, x, ["convs.1"])[1] == ["convs.1"]
    monkeypatch.setattr(engines, "followed", lambda *_: (None, []))
    assert torch.allclose(found, zfcuda.deconv(net, x, "convs.1", rule=rule, k=3), 1e-9, 1e-12)


class Gates(nn.Module):
    """One map goes with each of several: attention to places."""

    def __init__(self, call) -> None:
        super().__init__()
        self.stem, self.look = nn.Conv2d(3, 6, 3), nn.Conv2d(2, 1, 5, padding=2)
        self.after, self.call = nn.Conv2d(6, 4, 3), call
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.after(self.call(x, self.look(seen))).mean((2, 3))


GATES = {
    "gate": lambda x, one: x * one.sigmoid(),
    "gate first": lambda x, one: one.sigmoid() * x,
    "sum": lambda x, one: x + one,
    "difference": lambda x, one: one - x,
    "in place": lambda x, one: x.add_(one),
}


@pytest.mark.parametrize("call", GATES.values(), ids=GATES.keys())
def test_one_map_with_each_of_several(call):
    net, x = Gates(call), picture()
    graph = traced(net, picture(n=2))
    assert [type(node.rule) for node in graph.nodes].count(Binary) == 1
    wanted = zfcuda.occlusion(net, x, size=3, stride=3, method="dense")
    found = zfcuda.occlusion(net, x, size=3, stride=3, method="cone")
    assert torch.allclose(found.logits, wanted.logits, 1e-10, 1e-10)


@pytest.mark.parametrize("name", ["sum", "difference"])
@pytest.mark.parametrize("k", [1, 4])
def test_projections_of_sums_with_one_map(name, k, monkeypatch):
    net, x = Gates(GATES[name]), picture()
    found = zfcuda.deconv(net, x, "after", k=k)
    assert engines.followed(net, x, ["after"])[1] == ["after"]
    monkeypatch.setattr(engines, "followed", lambda *_: (None, []))
    assert torch.allclose(found, zfcuda.deconv(net, x, "after", k=k), 1e-9, 1e-12)


POOLS = {
    "mean of channels last": ("channels last", lambda x: x.mean((1, 2))),
    "mean of tokens": ("tokens", lambda x: x.mean(1)),
    "maxima of channels last": ("channels last", lambda x: x.amax([-3, -2])),
    "sum of tokens": ("tokens", lambda x: x.sum(dim=[1])),
}


@pytest.mark.parametrize(("layout", "pool"), POOLS.values(), ids=POOLS.keys())
def test_pools_of_whole_maps(layout, pool):
    into, _ = LAYOUTS[layout]
    net = Stream(layout, ["add"])
    net.forward = lambda x: net.head(pool(net.norms[0](into(net.convs[0](net.stem(x))))))
    x = picture()
    graph = traced(net, picture(n=2))
    assert [type(node.rule) for node in graph.nodes[-2:]] == [GlobalPool, Opaque]
    wanted = zfcuda.occlusion(net, x, size=3, stride=3, method="dense")
    found = zfcuda.occlusion(net, x, size=3, stride=3, method="cone")
    assert torch.allclose(found.logits, wanted.logits, 1e-10, 1e-10)


def test_no_pool_of_part_of_the_map():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).double()
    net.forward = lambda x: net[0](x).permute(0, 2, 3, 1).mean((1, 3))
    assert isinstance(traced(net, picture(n=2)).nodes[-1].rule, Opaque)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 4), (6, 5)])
def test_a_map_with_what_is_made_of_it(layout, size):
    """A chain, in the end; what was tried before that leaves nothing behind."""
    into, back = LAYOUTS[layout]

    def run(m, x):
        y = into(m.conv(x))
        return back(y / (y.abs() + 1) * y.sigmoid(), *size).flip(3)

    traced(Model(run, conv=nn.Conv2d(4, 4, 1).double()), images(size=size))
