"""Calls that mix the channels of each pixel, in whatever layout, and those that change the type of
its numbers: on cones up and down, against whole maps."""

import pytest
import torch
import torch.nn.functional as F
from operators import check_down, check_up, some_boxes
from torch import nn
from traces import Model, images, rules, traced

import zfcuda
from zfcuda.graph import rules as kinds
from zfcuda.graph import trace

SIZE = (6, 7)


def channels_last(function):
    return lambda m, x: function(m, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tokens(function):
    return lambda m, x: function(m, x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, SIZE)


PIXELWISE = {
    "glu": lambda m, x: F.glu(x, 1),
    "glu, last": channels_last(lambda m, x: F.glu(x)),
    "glu by hand": lambda m, x: x[:, :2] * x[:, 2:].sigmoid(),
    "softmax": lambda m, x: x.softmax(1),
    "softmax, last": channels_last(lambda m, x: x.softmax(-1)),
    "softmax of tokens": tokens(lambda m, x: x.softmax(-1)),
    "log_softmax": lambda m, x: F.log_softmax(x, 1),
    "softmin": lambda m, x: F.softmin(x, 1),
    "logsumexp": lambda m, x: x.logsumexp(1, keepdim=True),
    "layer norm": channels_last(lambda m, x: F.layer_norm(x, (4,), m.w[0], m.w[1])),
    "layer norm by hand": lambda m, x: (
        (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    ),
    "rms norm": channels_last(lambda m, x: F.rms_norm(x, (4,))),
    "einsum": lambda m, x: torch.einsum("nchw,dc->ndhw", x, m.w),
    "einsum, weights first": lambda m, x: torch.einsum("dc,nchw->ndhw", m.w, x),
    "einsum, last": channels_last(lambda m, x: torch.einsum("nhwc,dc->nhwd", x, m.w)),
    "einsum of tokens": tokens(lambda m, x: torch.einsum("bnc,dc->bnd", x, m.w)),
    "einsum in groups": lambda m, x: torch.einsum(
        "ngchw,gdc->ngdhw", x.unflatten(1, (2, 2)), m.w[:5].view(2, 5, 2)
    ).flatten(1, 2),
    "tensordot": lambda m, x: torch.tensordot(x, m.w, ([1], [1])).permute(0, 3, 1, 2),
    "matmul, last": channels_last(lambda m, x: x @ m.w.t()),
    "matmul of tokens": tokens(lambda m, x: torch.matmul(x, m.w.t())),
    "matmul, weights first": lambda m, x: (m.w @ x.flatten(2)).unflatten(2, SIZE),
    "linear of tokens": tokens(lambda m, x: F.linear(x, m.w, m.w[:, 0])),
    "greatest channel": lambda m, x: x.max(1, keepdim=True)[0],
    "least channel": lambda m, x: x.min(1, keepdim=True).values,
    "maxout": lambda m, x: x.unflatten(1, (2, 2)).max(2)[0],
    "sorted": lambda m, x: x.sort(1, descending=True)[0],
    "top 2": lambda m, x: x.topk(2, 1)[0],
    "median": lambda m, x: x.median(1, keepdim=True)[0],
    "cumsum": lambda m, x: x.cumsum(1),
    "cumprod": lambda m, x: x.cumprod(1),
    "std": lambda m, x: x.std(1, keepdim=True),
}


def of(call) -> Model:
    weights = torch.randn(10, 4, dtype=torch.float64)
    return Model(call, w=nn.Parameter(weights)).eval()


@pytest.mark.parametrize("name", PIXELWISE)
def test_channels_of_each_pixel(name):
    model, x = of(PIXELWISE[name]), images(2, SIZE)
    found_kinds = {type(rule) for rule in rules(trace(model, x))}
    assert found_kinds <= {kinds.Pixelwise, kinds.Pointwise, kinds.Affine}
    check_up(model, x, some_boxes(SIZE, 9))
    check_down(model, x)


LARGE_ONES = {
    "where": lambda m, x: torch.where(x > 40, 0.0, x),
    "masked_fill": lambda m, x: x.masked_fill(x > 40, 0.0),
    "product with a mask": lambda m, x: x * (x < 40),
    "minimum": lambda m, x: x.minimum(x.new_tensor([40.0])),
    "moved": lambda m, x: x.flip(-1),
}


@pytest.mark.parametrize("name", LARGE_ONES)
def test_what_only_large_numbers_show(name):
    """No numbers are tried to see whether a call copies maps only."""
    check_down(of(channels_last(LARGE_ONES[name])), 100 * images(2, SIZE))


@pytest.mark.parametrize("name", ["matmul, last", "matmul, weights first", "einsum"])
def test_weights_are_read_where_they_are(name):
    """A graph that is found again sees what they have become."""
    net = of(PIXELWISE[name])
    net = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1).double(), net, nn.AdaptiveMaxPool2d(1))
    net = nn.Sequential(net, nn.Flatten()).eval()
    x = images(1, SIZE)
    for _ in range(2):
        cones, dense = (
            zfcuda.occlusion(net, x, size=2, stride=2, method=method)
            for method in ("cone", "dense")
        )
        torch.testing.assert_close(cones.logits, dense.logits)
        net[0][1].w.data.mul_(-2)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: F.group_norm(x, 2),
        lambda m, x: F.instance_norm(x),
        lambda m, x: F.glu(x, 2),
        lambda m, x: x.sort(3)[0],
        lambda m, x: x.topk(3, 2)[0],
        lambda m, x: x.max(2, keepdim=True)[0],
        lambda m, x: x.cumprod(2),
        lambda m, x: torch.matmul(x, x.transpose(2, 3)),
        lambda m, x: x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2),
        lambda m, x: x @ torch.ones(7, 5, dtype=x.dtype),  # along the rows
    ],
)  # fmt: skip
def test_what_goes_over_pixels(call):
    found = rules(trace(of(call), images(2, SIZE)))
    assert any(isinstance(rule, kinds.Opaque) for rule in found)


# --- instance norm with running statistics --------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_instance_norm(affine, last):
    norm = nn.InstanceNorm2d(4, affine=affine, track_running_stats=True).double().eval()
    for vector in (norm.running_mean, *norm.parameters()):
        nn.init.normal_(vector)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = images(3, SIZE)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    (rule,) = rules(traced(norm, x))
    assert isinstance(rule, kinds.Affine)
    shown = x * rule.scale[:, None, None] + rule.shift[:, None, None]
    torch.testing.assert_close(shown, norm(x))
    check_up(norm, x, some_boxes(SIZE, 9))
    check_down(norm, x)
    functional = Model(
        lambda m, x: F.instance_norm(x, norm.running_mean, norm.running_var, use_input_stats=False)
    )
    assert [type(rule) for rule in rules(traced(functional, x))] == [kinds.Affine]


def test_instance_norm_by_hand():
    """Statistics in another order than that of the images' maps are none."""
    mean, variance = torch.zeros(4).double(), torch.ones(4).double()

    def call(m, x):
        n = len(x)
        every = x.view(1, n * 4, *SIZE)
        means = mean.repeat_interleave(n) if m.wrong else mean.repeat(n)
        return F.batch_norm(every, means, variance.repeat(n)).view(x.shape)

    x = images(2, SIZE)
    assert [type(rule) for rule in rules(trace(Model(call, wrong=False).eval(), x))] == [
        kinds.Affine
    ]
    assert "Opaque" in str(rules(trace(Model(call, wrong=True).eval(), x)))


# --- types of numbers -----------------------------------------------------------------------------


def cast(dtype, *layers):
    """Layers that calculate in another type, between two conversions."""
    inner = nn.Sequential(*layers).to(dtype)
    return Model(lambda m, x: m.inner(x.to(dtype)).to(x.dtype), inner=inner).eval()


CASTS = {
    "float": lambda: cast(torch.float32, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
    "bfloat16": lambda: cast(torch.bfloat16, nn.Conv2d(4, 4, 3, padding=1)),
    "half": lambda: cast(torch.half, nn.Conv2d(4, 4, 1), nn.LeakyReLU()),
    "pools": lambda: cast(torch.float32, nn.MaxPool2d(2), nn.AvgPool2d(2, 1)),
    "transposed": lambda: cast(torch.float32, nn.ConvTranspose2d(4, 4, 3, 2)),
    "channels": lambda: cast(torch.float32, nn.ChannelShuffle(2), nn.Conv2d(4, 4, 2), nn.GLU(1)),
    "methods": lambda: Model(lambda m, x: x.float().double() * 2),
    "position": lambda: Model(
        lambda m, x: (x.float() + m.p).type_as(x), p=nn.Parameter(torch.randn(4, *SIZE))
    ),
    "coordinates": lambda: Model(
        lambda m, x: torch.cat([x.float(), m.p.expand(len(x), -1, -1, -1)], 1).double(),
        p=nn.Parameter(torch.randn(2, *SIZE)),
    ),
}
ROUNDING = {"half": 2e-2, "bfloat16": 1e-1}


@pytest.mark.parametrize("name", CASTS)
def test_casts(name):
    model, x = CASTS[name]().eval(), images(2, SIZE)
    tolerance = ROUNDING.get(name, 1e-5)
    check_up(model, x, some_boxes(SIZE, 9), tolerance)
    check_down(model, x, tolerance=tolerance)


def test_signals_have_the_type_of_their_maps():
    """Else a convolution below, in another type than one above, could not send them on."""
    one, two = nn.Conv2d(4, 4, 3).float(), nn.Conv2d(4, 4, 3).double()
    net = Model(lambda m, x: m.two(m.one(x.float()).relu().double()), one=one, two=two).eval()
    check_up(net, images(2, SIZE), some_boxes(SIZE, 9), 1e-5)
    check_down(net, images(2, SIZE), tolerance=1e-5)


MEETINGS = {
    "add": lambda a, b: a + b,
    "add, scaled": lambda a, b: torch.add(b, a, alpha=-2),
    "mul": lambda a, b: a * b.sigmoid(),
    "cat": lambda a, b: torch.cat([a, b, a], 1),
    "maximum": torch.maximum,
    "add of fixed maps": lambda a, b: (
        a + (b.new_ones(b.shape).float() + b.new_ones(b.shape)) + b.new_ones(b.shape).bfloat16()
    ),
}


@pytest.mark.filterwarnings("error:the model answers otherwise for several images")
@pytest.mark.parametrize("name", MEETINGS)
def test_maps_of_two_types_meet(name):
    """They are promoted, as torch does."""
    meet = MEETINGS[name]
    conv, x = nn.Conv2d(4, 4, 3, padding=1), images(2, SIZE)
    two = Model(lambda m, x: meet(m.conv(x.float()), x), conv=conv).eval()
    check_up(two, x, some_boxes(SIZE, 9), 1e-5)
    if name not in ("mul", "maximum"):
        check_down(two, x, tolerance=1e-5)
    net = nn.Sequential(nn.Conv2d(4, 4, 1).double(), two, nn.AdaptiveMaxPool2d(1), nn.Flatten())
    cones, dense = (
        zfcuda.occlusion(net.eval(), x, size=2, stride=2, method=method)
        for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits, rtol=1e-5, atol=1e-5)


class Autocast(nn.Module):
    """Convolutions in bfloat16, normalisations in float32, and what joins them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.tail = nn.BatchNorm2d(8), nn.Conv2d(16, 6, 3, 2, 1)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.stem(x)
            y = self.norm(self.conv(x).float()).relu()
            return self.tail(torch.cat([x + y, y], 1)).relu().float().amax((2, 3))


def test_autocast():
    torch.manual_seed(0)
    net, x = Autocast().eval(), torch.randn(1, 3, 16, 18)
    assert kinds.Opaque not in {type(rule) for rule in rules(trace(net, x))}
    cones, dense = (
        zfcuda.occlusion(net, x, size=4, stride=4, method=method) for method in ("cone", "dense")
    )
    torch.testing.assert_close(cones.logits, dense.logits, rtol=2e-2, atol=2e-2)
    found = zfcuda.deconv(net, x, "tail", rule="gradient", seed=1.0)
    net.stem.register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
    true = zfcuda.deconv(net, x, "tail", rule="gradient", seed=1.0)
    torch.testing.assert_close(found, true, rtol=2e-2, atol=2e-2)


FLAT = {
    "signs": lambda x: (x > 0).double(),
    "places": lambda x: x.argmax(1, keepdim=True).double(),
    "order": lambda x: x.sort(1)[1].double(),
    "whole numbers": lambda x: (4 * x).long().double(),
}


@pytest.mark.parametrize("name", FLAT)
def test_what_has_no_derivative_sends_nothing(name):
    """Cones up; down, what goes by other ways."""
    flat = FLAT[name]
    x = images(1, SIZE)
    check_up(Model(lambda m, x: flat(x)).eval(), x, some_boxes(SIZE, 9))
    for call in (flat, lambda x: torch.cat([flat(x), x], 1), lambda x: x * flat(x)):
        net = nn.Sequential(nn.Conv2d(4, 4, 1), Model(lambda m, x, c=call: c(x)))
        net.append(nn.LazyConv2d(3, 3)).double().eval()(x)
        try:
            found = zfcuda.deconv(net, x, "2", rule="gradient", seed=1.0)
        except RuntimeError as error:
            assert call is flat and "differentiable" in str(error)
            continue
        net[0].register_forward_hook(lambda *_: None)  # no graph: the whole backward pass
        true = zfcuda.deconv(net, x, "2", rule="gradient", seed=1.0)
        torch.testing.assert_close(found, true)
