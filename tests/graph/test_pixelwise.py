"""Calls that treat pixels alone only together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traces import Model, images, rules, traced

import zfcuda
from zfcuda.graph import fan_in, trace
from zfcuda.graph.rules import Pixelwise, Pointwise


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
        lambda m, x: x[:, :3] * x[:, 3:],
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
        lambda m, x: x[:, 4:],  # no channels
    ],
)
def test_not_pixelwise(call):
    x = images()
    assert not any(isinstance(rule, Pixelwise) for rule in rules(traced(Model(call), x)))


def test_roots_of_negative_numbers():
    """What the numbers come to does not matter: the rules of the calls tell."""
    x = images().abs()
    *_, last = traced(Model(lambda m, x: x / x.sum(1, keepdim=True).sqrt()), x).nodes
    assert isinstance(last.rule, Pixelwise)
    found = last.rule.function(images())
    assert found.isnan().any() and not found.isnan().all()


def test_maps_as_wide_and_high_as_they_are_many():
    """Sizes do not tell which axis is which."""
    norm = nn.LayerNorm(8).double()
    net = Model(lambda m, x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=norm)
    graph = traced(net, images(2, (8, 8), channels=8))
    assert [type(rule) for rule in rules(graph)] == [Pixelwise]
    turned = Model(lambda m, x: x.permute(0, 2, 1, 3))
    assert not any(
        isinstance(rule, Pixelwise) for rule in rules(traced(turned, images(2, (8, 8), channels=8)))
    )


def test_casts_on_the_way():
    graph = traced(Model(lambda m, x: x.float().softmax(1).double()))
    assert [type(rule) for rule in rules(graph)] == [Pointwise, Pixelwise, Pointwise]


def test_no_signal_passes_what_a_chain_detaches():
    norm = nn.LayerNorm(4).double()

    def call(m, x):
        return x + norm(x.permute(0, 2, 3, 1).detach()).permute(0, 3, 1, 2)

    net = nn.Sequential(Model(call, norm=norm), nn.Conv2d(4, 4, 3).double())
    x = images(1).requires_grad_()
    (true,) = torch.autograd.grad(net(x)[0, 2, 3, 4], x)
    found = zfcuda.deconv(net, x, "1", channel=2, position=(3, 4), rule="gradient", seed=1.0)
    torch.testing.assert_close(found, true)


def test_one_map_of_many_pixels_is_not_pixelwise():
    """One channel is channels-last, too: trying a chain out must not go by blocks."""
    net = Model(lambda m, x: x[:, :1] - x.mean(2, keepdim=True))
    graph = trace(net, images(1, (28, 28), channels=1))
    assert graph.nodes[-1].name == "sub"
    assert not isinstance(graph.nodes[-1].rule, Pixelwise)


def test_work_of_a_chain():
    graph = traced(ChannelsLast().double())
    assert fan_in(graph.nodes[1]) == (4 * 8 + 8 * 4) // 4


def test_a_layer_inside_a_chain_can_be_asked_for():
    net = ChannelsLast().double()
    assert trace(net, images()).layer("wide") is None
    assert trace(net, images(), ["wide"]).layer("wide").shape == (12, 10, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [(32, 32), (33, 31), (40, 60)])
@pytest.mark.parametrize("last", [torch.contiguous_format, torch.channels_last])
def test_maps_of_more_than_a_block(dtype, size, last):
    net = ChannelsLast().to(dtype).eval()
    x = images(2, size).to(dtype).contiguous(memory_format=last)
    x[0, 1, 3, 5] = torch.nan
    (chain,) = (node for node in trace(net, x).nodes if isinstance(node.rule, Pixelwise))
    with torch.no_grad():
        found, true = chain.rule.function(x), net(x)
    assert torch.equal(found.isnan(), true.isnan()) and true.isnan().sum() == 4
    torch.testing.assert_close(found, true, equal_nan=True)


def test_blocks_pass_gradients():
    net = ChannelsLast().double().eval()
    x = images(1, (40, 40)).requires_grad_()
    (chain,) = (node for node in trace(net, x).nodes if isinstance(node.rule, Pixelwise))
    found, true = (
        torch.autograd.grad(f(x).square().sum(), x)[0] for f in (chain.rule.function, net)
    )
    torch.testing.assert_close(found, true)
