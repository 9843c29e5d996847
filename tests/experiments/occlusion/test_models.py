"""Occlusion inside cones against dense passes, over models as people write them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Model

import zfcuda

SIZE = (13, 17)


class Written(nn.Module):
    """A forward written as a function of the layers and the images, and a weighted sum over
    everything, so that every pixel counts."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 3, 3, padding=1)
        self.image_point = nn.Conv2d(3, 3, 1)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.wide = nn.Conv2d(4, 4, 3, padding=1)
        self.point = nn.Conv2d(4, 4, 1)
        self.written = forward
        self.last = nn.LazyLinear(5)
        self.double().eval()(torch.randn(1, 3, *SIZE).double())

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.written(self, x).flatten(1))


WRITTEN: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {}


def written(forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    WRITTEN[forward.__name__] = forward


@written
def sum_with_a_factor(net, x):
    a = net.first(x)
    return torch.add(net.point(a.relu()), net.wide(a), alpha=2)


@written
def sum_of_two_images(net, x):
    """Patches of the image lie over one another, and so do those of each pixel's functions."""
    return net.image_point(x) + torch.tanh(x)


@written
def image_added_in_place(net, x):
    y = net.image_point(x)
    y += x
    return net.image(y) + y


@written
def sum_of_a_value_and_itself_by_another_name(net, x):
    a = net.first(x)
    return torch.cat([torch.positive(a) + net.point(a), a], 1)


@written
def sum_of_a_view_of_a_value(net, x):
    a = net.first(x)
    b = a.permute(0, 2, 3, 1).permute(0, 3, 1, 2)
    return torch.cat([b + net.point(a), a], 1)


@written
def sum_of_halves(net, x):
    x = net.first(x)
    a, b = x.chunk(2, 1)
    return torch.cat([x, a + b.relu()], 1)


@written
def halves_of_the_width_swapped(net, x):
    y = net.first(x)
    return net.wide(torch.cat([y[..., 10:], y[..., :10]], -1))


@written
def parts_of_the_width_swapped(net, x):
    a, b = net.first(x).tensor_split((10,), 3)
    return net.wide(torch.cat([b, a], 3))


@written
def rows_swapped_in_channels_last(net, x):
    y = net.first(x).permute(0, 2, 3, 1)
    return net.wide(torch.cat([y[:, 9:], y[:, :9]], 1).permute(0, 3, 1, 2))


@written
def slices_of_channels(net, x):
    y = net.first(x)
    return net.wide(torch.cat([y[:, 2:], y[:, :2] * 0.5 + 1], 1))


@written
def residual_in_place(net, x):
    identity = net.first(x)
    out = net.wide(identity)
    out += identity
    identity = F.relu(out, inplace=True)
    out = net.point(net.wide(out))
    out += identity
    return out.relu_()


@written
def another_name_in_place(net, x):
    y = net.first(x)
    z = y
    z = z + 1
    y += z
    y.mul_(2)
    return torch.cat([y, z, net.wide(y)], 1)


@written
def weights_used_thrice(net, x):
    y = net.first(x)
    for _ in range(3):
        y = net.wide(y).relu_() + y
    return y


@written
def squeeze_and_excite(net, x):
    y = net.first(x)
    return y + net.wide(y) * torch.sigmoid(F.adaptive_avg_pool2d(y, 1))


@written
def inception_input(net, x):
    parts = [x[:, i].unsqueeze(1) * (0.2 + 0.1 * i) - 0.1 for i in range(3)]
    return net.first(torch.cat(parts, 1))


@written
def gates(net, x):
    a, b = net.first(x).chunk(2, dim=1)
    return a * torch.sigmoid(b) + F.glu(net.wide(net.first(x)), 1)


@written
def norms(net, x):
    y = F.layer_norm(net.first(x).permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)
    return F.instance_norm(net.wide(F.group_norm(net.wide(y), 2)))


@written
def paddings_and_sizes(net, x):
    y = F.pad(net.first(F.pad(x, (1, 2, 0, 1))), (1, 1, 1, 1), mode="reflect")
    return F.interpolate(net.wide(y), scale_factor=2)


@pytest.mark.parametrize("name", WRITTEN)
def test_models_as_written(name):
    net, x = Written(WRITTEN[name]), torch.randn(2, 3, *SIZE).double()
    positions = torch.tensor(
        [[0, 0, 1, 1], [12, 16, 13, 17], [0, 0, *SIZE], [3, 2, 9, 12], [3, 2, 9, 12], [5, 8, 8, 17]]
    )
    arguments = {"positions": positions, "fill": torch.randn(3, *SIZE).double()}
    dense = zfcuda.occlusion(net, x, method="dense", layers="last", **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method, layers in (("cone", "last"), ("cone", ()), ("auto", ())):
            result = zfcuda.occlusion(net, x, method=method, layers=layers, **arguments)
            assert (result.logits - dense.logits).norm() < 1e-9 * dense.logits.norm()
            for layer in result.layers:
                torch.testing.assert_close(result.layers[layer].sums, dense.layers[layer].sums)


def test_shuffled_channels_of_positions_that_change_nothing():
    def sparse(net, x):
        y = F.conv2d(x, net.first.weight[:, :, :1, :1], stride=5)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1, h, w).relu()

    net, x = Written(sparse), torch.randn(1, 3, *SIZE).double()
    positions = torch.tensor([[1, 1, 3, 3], [6, 6, 7, 9]])
    result = zfcuda.occlusion(net, x, positions=positions, fill=9.0, method="cone")
    torch.testing.assert_close(result.logits[0], result.base_logits.expand(2, -1))


# --- numbers that are none ------------------------------------------------------------------------


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("where", ["image", "fill"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_reaches_what_it_reaches_densely(dtype, where, value):
    net, x = small().to(dtype), torch.randn(2, 3, 32, 32, dtype=dtype)
    fill = torch.randn(3, 32, 32, dtype=dtype)
    (x[1] if where == "image" else fill)[:, 5, 5] = value
    arguments = {"size": 8, "stride": 4, "fill": fill, "layers": ["0", "1", "4", "6"]}
    dense = zfcuda.occlusion(net, x, method="dense", **arguments)
    cone = zfcuda.occlusion(net, x, method="cone", **arguments)
    assert dense.logits.isnan().any()
    tolerance = {"rtol": 1e-4, "atol": 1e-4, "equal_nan": True}
    torch.testing.assert_close(cone.logits, dense.logits, **tolerance)
    for layer, sums in dense.layers.items():
        torch.testing.assert_close(cone.layers[layer].sums, sums.sums, **tolerance)


def test_averages_of_large_halves_do_not_overflow():
    """Their sums would."""
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AvgPool2d(8, 3, 2), nn.Conv2d(4, 4, 1)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    x = torch.rand(1, 3, 32, 32).half() + 1
    with torch.no_grad():
        net[0].weight.abs_().mul_(10_000)
        net[3].weight.mul_(1e-3)
    arguments = {"size": 6, "stride": 7}
    result = zfcuda.occlusion(net.half(), x, method="cone", **arguments).logits
    truth = zfcuda.occlusion(net.double(), x.double(), method="dense", **arguments).logits
    assert (result - truth).norm() < 0.01 * truth.norm()


# --- models that change, or answer for one image --------------------------------------------------


def assert_cone_is_dense(net: nn.Module, x: Tensor) -> None:
    dense = zfcuda.occlusion(net, x, size=8, stride=8, method="dense")
    cone = zfcuda.occlusion(net, x, size=8, stride=8, method="cone")
    torch.testing.assert_close(cone.logits, dense.logits)


def test_changed_models_are_what_they_are_now():
    net, x = small().double(), torch.randn(2, 3, 32, 32).double()
    assert_cone_is_dense(net, x)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)
    assert_cone_is_dense(net, x)
    net[0].weight = nn.Parameter(torch.randn_like(net[0].weight))
    assert_cone_is_dense(net, x)
    net[2].weight.data = torch.randn_like(net[2].weight)
    assert_cone_is_dense(net, x)
    net.load_state_dict({name: w * 0.7 for name, w in net.state_dict().items()}, assign=True)
    assert_cone_is_dense(net, x)


@pytest.mark.parametrize("layer", [1, 2, 9])
def test_forwards_replaced_on_a_module(layer):
    net, x = small().double(), torch.randn(2, 3, 32, 32).double()
    assert_cone_is_dense(net, x)
    before = net[layer].forward
    net[layer].forward = lambda x: torch.tanh(before(x))
    assert_cone_is_dense(net, x)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("channels", [8, 260])
def test_mixed_pixels_that_begin_to_count(channels, attention):
    """What all pixels are mixed to is weighed by zeros, at first."""

    def forward(m, x):
        y = m.first(x)
        tokens = y.flatten(2).transpose(1, 2)
        if attention:
            mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        else:
            mixed = tokens - tokens.mean(1, keepdim=True)
        return m.last((y + m.out(mixed).transpose(1, 2).view(y.shape)).relu().mean((2, 3)))

    layers = {"first": nn.Conv2d(3, channels, 3), "last": nn.Linear(channels, 4)}
    net = Model(forward, **layers, out=nn.Linear(channels, channels)).double().eval()
    nn.init.zeros_(net.out.weight)
    x = torch.randn(1, 3, 16, 16).double()
    assert_cone_is_dense(net, x)
    with torch.no_grad():
        net.out.weight.normal_(0, 0.1)
    assert_cone_is_dense(net, x)


@pytest.mark.parametrize("method", ["dense", "cone", "auto"])
def test_models_of_one_image_are_refused(method):
    def forward(m, x):
        return m.last(m.conv(x).reshape(1, 8, -1).mean(2))

    net = Model(forward, conv=nn.Conv2d(3, 8, 3), last=nn.Linear(8, 4)).eval()
    message = r"the model must return logits \[16,K\], it returned \[1, 4\]"
    if method == "cone":
        message = r"must return a tensor \[2,K\] for two images, it returns \[1, 4\]"
    with pytest.raises(ValueError, match=message):
        zfcuda.occlusion(net, torch.randn(1, 3, 32, 32), size=8, stride=8, method=method)


def test_autocast_after_a_run_without():
    """The graph of one has values of other dtypes than the graph of the other."""

    def forward(m, x):
        y = torch.tanh(m.first(x))
        return m.last((m.wide(y) + torch.cat([x, x, x[:, :2]], 1)).mean((2, 3)))

    layers = {"first": nn.Conv2d(3, 8, 3, padding=1), "wide": nn.Conv2d(8, 8, 3, padding=1)}
    net, x = Model(forward, **layers, last=nn.Linear(8, 4)).eval(), torch.randn(1, 3, 32, 32)
    assert_cone_is_dense(net, x)
    arguments = {"size": 8, "stride": 8}
    plain = zfcuda.plan(net, x, **arguments)
    with torch.autocast("cpu", torch.bfloat16):
        dense = zfcuda.occlusion(net, x, method="dense", **arguments).logits
        cone = zfcuda.occlusion(net, x, method="cone", **arguments).logits
    assert (cone - dense).norm() < 0.02 * dense.norm()
    assert zfcuda.plan(net, x, **arguments) == plain


def test_a_part_that_leaves_autocast():
    """Cones leave it there too: this part's numbers are too large for float16."""

    def forward(m, x):
        y = m.first(x).relu()
        with torch.autocast("cpu", enabled=False):
            y = m.wide(1e6 * y.float()) / 1e6
        return m.last(m.wide(y).relu().mean((2, 3)))

    torch.manual_seed(0)
    layers = {"first": nn.Conv2d(3, 8, 3, padding=1), "wide": nn.Conv2d(8, 8, 3, padding=1)}
    net, x = Model(forward, **layers, last=nn.Linear(8, 4)).eval(), torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.float16):
        dense = zfcuda.occlusion(net, x, method="dense", size=8, stride=8).logits
        cone = zfcuda.occlusion(net, x, method="cone", size=8, stride=8).logits
    assert (cone - dense).norm() < 0.002 * dense.norm()


def test_weights_and_images_of_inference_mode():
    with torch.inference_mode():
        weights = {"weight": nn.Parameter(torch.randn(8, 3, 3, 3)), "last": nn.Linear(8, 4)}
        net = Model(lambda m, x: m.last(F.relu_(F.conv2d(x, m.weight)).mean((2, 3))), **weights)
        net, x = net.eval(), torch.randn(1, 3, 32, 32)
        assert_cone_is_dense(net, x)
    assert_cone_is_dense(net, x)
