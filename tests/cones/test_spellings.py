"""What moves, blurs or resamples pixels between convolutions, as libraries write it: cones against
whole passes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from traces import Model, images

import zfcuda
from zfcuda.cones.observing import obstacle
from zfcuda.graph import trace

CHANNELS = 8
BINOMIAL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16


class BlurPool(nn.Module):
    """As timm's: padding by a mode, then one filter for each channel."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.register_buffer("filter", BINOMIAL.repeat(CHANNELS, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), mode=self.mode)
        return F.conv2d(x, self.filter, stride=2, groups=x.shape[1])


def filtered(x):
    """As kornia's: filters expanded at each call, images counted by the view."""
    channels, height, width = x.shape[1:]
    kernel = BINOMIAL[None, None].expand(-1, channels, -1, -1).reshape(channels, 1, 3, 3)
    x = F.pad(x, (1, 1, 1, 1), mode="reflect").view(-1, channels, height + 2, width + 2)
    return F.conv2d(x, kernel, groups=channels).view(-1, channels, height, width)


def max_blur(x):
    x = F.max_pool2d(x, 2, 1, padding=1)
    return F.conv2d(x, BINOMIAL.repeat(CHANNELS, 1, 1, 1), stride=2, padding=1, groups=CHANNELS)


def same_as_tensorflow(x):
    """Stride 2, and more padding below and to the right."""
    down, right = ((-(-n // 2) - 1) * 2 + 3 - n for n in x.shape[2:])
    pad = (right // 2, right - right // 2, down // 2, down - down // 2)
    return F.max_pool2d(F.pad(x, pad, value=float("-inf")), 3, 2)


def in_channels_last(function):
    return lambda x: function(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


SPELLINGS = {
    "reflect": nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    "replicate": nn.Conv2d(8, 8, 3, 2, padding=2, padding_mode="replicate"),
    "circular": nn.Conv2d(8, 8, (3, 5), padding=(1, 2), padding_mode="circular", dilation=(1, 2)),
    "same, even": nn.Conv2d(8, 8, 4, padding="same"),
    "same, dilated": nn.Conv2d(8, 8, (2, 6), padding="same", dilation=(3, 1)),
    "constant": nn.ConstantPad2d((1, 2, 0, 1), 0.3),
    "mirrored": nn.ReflectionPad2d((1, 2, 3, 0)),
    "repeated": nn.ReplicationPad2d(2),
    "wrapped": nn.CircularPad2d((1, 0, 2, 1)),
    "padded by less than nothing": lambda x: F.pad(x, (-1, 2, 1, -3)),
    "blurred": BlurPool("reflect"),
    "blurred, repeated": BlurPool("replicate"),
    "blurred, wrapped": BlurPool("circular"),
    "filtered": filtered,
    "max blur": max_blur,
    "maxima of same padding": same_as_tensorflow,
    "norms": nn.LPPool2d(2, 3, 2),
    "norms to the edge": nn.LPPool2d(3, 2, ceil_mode=True),
    "strided": lambda x: x[:, :, 1::3, :-1:2],
    "rolled": lambda x: torch.roll(x, (3, -2), (2, 3)),
    "nearest": nn.Upsample(scale_factor=2),
    "nearest to a size": nn.Upsample((17, 9)),
    "bilinear": nn.UpsamplingBilinear2d(scale_factor=2),
    "shuffled": nn.PixelShuffle(2),
    "normalised, channels last": in_channels_last(lambda x: F.layer_norm(x, (8,))),
    "padded, channels last": in_channels_last(lambda x: F.pad(x, (0, 0, 1, 1, 2, 0))),
    "sliced, channels last": in_channels_last(lambda x: x[:, 1:, ::2]),
    "rolled, channels last": in_channels_last(lambda x: x.roll((2, 1), (1, 2))),
}


class Net(nn.Module):
    """The functions between convolutions."""

    def __init__(self, size, *functions) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        made = (f if isinstance(f, nn.Module) else Model(lambda m, x, f=f: f(x)) for f in functions)
        self.middle = nn.Sequential(*made).double()
        channels = self.middle(images(1, size, CHANNELS)).shape[1]
        self.tail = nn.Conv2d(channels, 6, 3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.stem(x).relu() + 0.3)
        return self.tail(x.relu()).relu().mean((2, 3))


def check(size, *functions):
    net = Net(size, *functions).double().eval()
    x = images(2, size, 3)
    assert zfcuda.plan(net, x, size=3, stride=2, method="cone").dense_from is None
    graph = trace(net, x, ["tail"])
    if not any(isinstance(f, nn.LPPool2d) for f in functions):  # has a rectifier inside
        assert obstacle(graph, {graph.layer("tail").index}) is None
    cones, dense = (
        zfcuda.occlusion(net, x, size=3, stride=2, layers=["tail"], method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits)
    torch.testing.assert_close(cones.layers["tail"].sums, dense.layers["tail"].sums)
    found = zfcuda.deconv(net, x, "tail", rule="gradient", seed=1.0)
    net.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    true = zfcuda.deconv(net, x, "tail", rule="gradient", seed=1.0)
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("size", [(8, 8), (11, 14)])  # as many rows and columns as channels
@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:projections go by autograd")
def test_spellings(name, size):
    check(size, SPELLINGS[name])


@st.composite
def programs(draw):
    """A size and what is done to maps of it and eight channels."""
    size = now = draw(st.tuples(*[st.integers(6, 13)] * 2))
    channels, done = CHANNELS, []
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["interpolate", "mean", "largest", "pad", "shuffle", "space"]))
        wanted = draw(st.tuples(*[st.integers(3, 15)] * 2))
        if kind == "interpolate":
            mode = draw(st.sampled_from(["bilinear", "bicubic", "nearest"]))
            corners = draw(st.booleans()) if mode != "nearest" else None
            smooth = mode != "nearest" and draw(st.booleans())
            more = {"mode": mode, "align_corners": corners, "antialias": smooth}
            done.append(lambda x, wanted=wanted, more=more: F.interpolate(x, wanted, **more))
        elif kind == "mean":
            done.append(nn.AdaptiveAvgPool2d(wanted))
        elif kind == "largest":
            done.append(nn.AdaptiveMaxPool2d(wanted))
        elif kind == "pad":
            pad = draw(st.tuples(*[st.integers(0, 2)] * 4))
            mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
            done.append(lambda x, pad=pad, mode=mode: F.pad(x, pad, mode=mode))
            wanted = now[0] + pad[2] + pad[3], now[1] + pad[0] + pad[1]
        elif kind == "shuffle" and channels >= 4:
            done.append(nn.PixelShuffle(2))
            wanted, channels = tuple(2 * n for n in now), channels // 4
        elif kind == "space" and channels <= CHANNELS and not (now[0] % 2 or now[1] % 2):
            done.append(nn.PixelUnshuffle(2))
            wanted, channels = tuple(n // 2 for n in now), channels * 4
        else:
            wanted = now
        now = wanted
    return size, done


@given(programs())
@settings(max_examples=40)
def test_random_programs(program):
    size, done = program
    check(size, *done)
