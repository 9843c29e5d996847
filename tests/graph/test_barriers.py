"""What is global by nature bears its name in the plan."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import Model

import zfcuda


def barrier(forward, **attributes):
    """The first step of a network that no cone passes, and its kind."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Model(forward, **attributes), nn.Flatten())
    steps = zfcuda.plan(net.eval(), torch.randn(1, 3, 16, 12), size=4, method="cone").steps
    return next((step.kind for step in steps if step.dense and len(step.maps) > 1), None)


def attention(m, x):
    tokens = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, m.key(tokens), tokens)


def products(m, x):
    tokens = m.norm(x.permute(0, 2, 3, 1)).flatten(1, 2)
    return (tokens @ m.key(tokens).transpose(1, 2) / 3).softmax(2) @ tokens


def mixer(m, x):
    return F.gelu(m.mix(m.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2)))


def gate(m, x):
    return x * m.narrow(x.mean((2, 3), keepdim=True)).sigmoid()


def channel_gate(m, x):
    return x * m.narrow(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid()


def split_attention(m, x):
    both = x.view(len(x), 2, 4, 16, 12)
    return (both * both.sum(1).mean((2, 3))[:, None, :, None, None].softmax(1)).sum(1)


GLOBAL = {
    "attention": (attention, {"key": nn.Linear(8, 8)}),
    "attention by products": (products, {"key": nn.Linear(8, 8), "norm": nn.LayerNorm(8)}),
    "linear layer over positions": (mixer, {"mix": nn.Linear(192, 5), "norm": nn.LayerNorm(8)}),
    "squeeze-and-excitation": (gate, {"narrow": nn.Conv2d(8, 8, 1)}),
    "squeeze-and-excitation by channels": (channel_gate, {"narrow": nn.Conv1d(1, 1, 3, padding=1)}),
    "squeeze-and-excitation of parts": (split_attention, {}),
    "group norm": (lambda m, x: m.norm(x), {"norm": nn.GroupNorm(2, 8)}),
    "norm over the maps": (lambda m, x: x / x.norm(2, (2, 3), keepdim=True), {}),
    "variance over the maps": (lambda m, x: x.var((2, 3), keepdim=True) * x, {}),
    "layer norm over the maps": (lambda m, x: m.norm(x), {"norm": nn.LayerNorm([8, 16, 12])}),
    "instance norm": (lambda m, x: m.norm(x), {"norm": nn.InstanceNorm2d(8)}),
    "Fourier transform": (lambda m, x: torch.fft.rfft2(x).abs(), {}),
    "sorting": (lambda m, x: x.sort(2)[0].permute(0, 2, 3, 1), {}),
    "sorting by rank": (lambda m, x: x * (x > x.flatten(2).topk(5)[0][..., -1:, None]), {}),
    "running sum": (lambda m, x: x.flatten(2).transpose(1, 2).relu().cumsum(1), {}),
    "sampling where a grid says": (
        lambda m, x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False),
        {},
    ),
    "recurrence": (
        lambda m, x: m.lstm(x.flatten(2).transpose(1, 2))[0],
        {"lstm": nn.LSTM(8, 5, batch_first=True)},
    ),
}


@pytest.mark.parametrize("name", GLOBAL)
def test_global_by_nature(name):
    forward, attributes = GLOBAL[name]
    assert barrier(forward, **attributes) == name.partition(" by ")[0].partition(" of ")[0]


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: x.flatten(2).transpose(1, 2).relu().diff(dim=1),
        lambda m, x: torch.cdist(x, x.flip(2)),
    ],
)
def test_others_have_no_name(forward):
    assert barrier(forward) == "other"


def test_no_barrier():
    assert barrier(lambda m, x: m.conv(x).relu().mean((2, 3)), conv=nn.Conv2d(8, 8, 3)) is None


class Block(nn.Module):
    def forward(self, x):
        return x.cumsum(2)


def test_the_barrier_is_named_with_its_module():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(Block(), nn.ReLU()), nn.Flatten()).eval()
    x = torch.randn(1, 3, 16, 12)
    for method in ("cone", "auto"):
        plan = zfcuda.plan(net, x, size=4, method=method)
        assert (plan.barrier.shown, plan.barrier.nature) == ("1.0", "running sum")
        assert "1.0 (running sum)" in str(plan).split("\n")[0]
    body = Model(lambda m, x: 1 + x.cumsum(2), last=nn.ReLU())
    net = nn.Sequential(nn.Conv2d(3, 8, 3), body, nn.Flatten()).eval()
    plan = zfcuda.plan(net, x, size=4, method="cone")
    assert plan.barrier.shown == "cumsum in 1" and plan.dense_from == "cumsum"
    assert "whole maps from cumsum in 1 (running sum)" in str(plan)
    assert zfcuda.plan(nn.Sequential(net[0], nn.Flatten()), x, size=4).barrier is None


class Says(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x)


SAID = {
    "mean in 'block' mixes": lambda x: x - x.mean(0),
    r"control flow depends on values \(a condition or .item\(\)\), in 'block'": lambda x: (
        x if x.sum() > 0 else -x
    ),
    "draws random numbers, in 'block'": torch.rand_like,
    r"outside of torch \(numpy\), in 'block'": lambda x: x * float(x.numpy().max()),
    "batch's own statistics in 'block'": lambda x: F.batch_norm(x, None, None, training=True),
    "topk in 'block' mixes": lambda x: x.topk(1, 0)[0].expand_as(x),
    "it calls mul in 'block' with 1.0 for one image": lambda x: x * float(len(x)),
}


@pytest.mark.parametrize("said", SAID)
def test_what_is_refused_is_named_with_its_module(said):
    net = Model(lambda m, x: m.block(x).mean((2, 3)), block=Says(SAID[said])).eval()
    with pytest.warns(UserWarning, match=said):
        zfcuda.occlusion(net, torch.randn(1, 3, 8, 8), size=4)
