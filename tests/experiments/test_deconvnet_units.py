"""Which units are projected, from which seed, in which batches, and with which warnings."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zfcuda
from zfcuda.deconvnet import projections


def output_of(net, x, layer):
    outputs = []
    hook = dict(net.named_modules())[layer].register_forward_hook(
        lambda module, args, output: outputs.append(output.clone())
    )
    with torch.no_grad():
        net(x)
    hook.remove()
    return outputs[-1]


def test_the_strongest_map_holds_the_largest_activation(make, x):
    net = make("VGGLike")
    maps = output_of(net, x, "tail")
    result = projections(net, x, "tail")
    for n in range(2):
        channel, row, column = result.units["tail"][n].tolist()
        assert maps[n, channel, row, column] == maps[n].max()
        assert result.activations["tail"][n] == maps[n].max()
    assert torch.equal(result.images, x)
    assert torch.equal(result.projections["tail"], zfcuda.deconv(net, x, "tail"))


def test_k_maps_are_ordered_by_their_largest_activation(make, x):
    net = make("Functional")
    maps = output_of(net, x, "tail")
    several = zfcuda.deconv(net, x, "tail", k=5)
    assert several.shape == (2, 5, 3, 16, 18)
    order = maps.amax((2, 3)).argsort(1, descending=True)
    for n in range(2):
        for rank, channel in enumerate(order[n].tolist()):
            alone = zfcuda.deconv(net, x[n : n + 1], "tail", channel=channel)[0]
            torch.testing.assert_close(several[n, rank], alone)


def test_k_positions_of_a_channel(make, x):
    net = make("VGGLike")
    maps = output_of(net, x, "tail")
    several = zfcuda.deconv(net, x, "tail", channel=2, k=3)
    width = maps.shape[3]
    for n in range(2):
        places = maps[n, 2].flatten().argsort(descending=True)[:3].tolist()
        for rank, place in enumerate(places):
            position = (place // width, place % width)
            alone = zfcuda.deconv(net, x[n : n + 1], "tail", channel=2, position=position)[0]
            torch.testing.assert_close(several[n, rank], alone)


def test_channel_per_image_and_position(make, x):
    net = make("VGGLike")
    both = zfcuda.deconv(net, x, "tail", channel=[3, 1], position=(0, 1))
    for n, channel in enumerate((3, 1)):
        alone = zfcuda.deconv(net, x[n : n + 1], "tail", channel=channel, position=(0, 1))
        torch.testing.assert_close(both[n : n + 1], alone)
    tensor = zfcuda.deconv(net, x, "tail", channel=torch.tensor([3, 1]), position=(0, 1))
    assert torch.equal(both, tensor)


def test_seed_is_the_activation_with_its_sign_or_a_number(make, x):
    net = make("VGGLike")
    maps = output_of(net, x, "tail")
    unit = {"channel": int(maps[:, :, 1, 1].amin(0).argmin()), "position": (1, 1)}
    values = maps[:, unit["channel"], 1, 1]
    assert values.min() < 0
    own = zfcuda.deconv(net, x, "tail", rule="gradient", **unit)
    one = zfcuda.deconv(net, x, "tail", rule="gradient", seed=1.0, **unit)
    torch.testing.assert_close(own, one * values.view(2, 1, 1, 1))
    # Under the deconvnet's rule a negative seed is another picture, not the same one mirrored.
    n = int(values.argmin())
    negative = zfcuda.deconv(net, x[n : n + 1], "tail", **unit)
    mirrored = zfcuda.deconv(net, x[n : n + 1], "tail", seed=-values[n].item(), **unit)
    assert not torch.allclose(negative, -mirrored)
    same = zfcuda.deconv(net, x[n : n + 1], "tail", seed=values[n].item(), **unit)
    assert torch.equal(negative, same)


def test_vectors_count_as_maps_of_one_element(make, x):
    net = make("VGGLike")
    logits = output_of(net, x, "classes")
    result = projections(net, x, ["classes", ""])
    for layer in ("classes", ""):  # "" is the model's own output
        assert torch.equal(result.units[layer][:, 0], logits.argmax(1))
        assert result.units[layer][:, 1:].abs().max() == 0
    assert torch.equal(result.projections["classes"], result.projections[""])
    alone = zfcuda.deconv(net, x, "classes", channel=4, position=(0, 0))
    assert torch.equal(alone, zfcuda.deconv(net, x, "classes", channel=4))


def test_a_layers_output_is_meant_before_later_calls_in_place(make, x):
    net = make("VGGLike")  # features.0 is followed by an in-place ReLU
    with torch.no_grad():
        net.features[0].bias.fill_(-100.0)
        before = net.features[0](x)
    result = projections(net, x, "features.0")
    assert torch.equal(result.activations["features.0"], before.flatten(1).amax(1))
    assert result.activations["features.0"].max() < 0


def test_the_last_call_of_a_reused_module_counts(make, x):
    net = make("Reused")
    last = output_of(net, x, "conv")
    result = projections(net, x, "conv")
    assert torch.equal(result.activations["conv"], last.flatten(1).amax(1))


def test_a_module_under_two_names_goes_by_both(x):
    conv = nn.Conv2d(3, 3, 1)
    net = nn.ModuleDict({"a": conv, "b": conv})
    net.forward = lambda x: net["b"](net["a"](x))
    net = net.double()
    assert torch.equal(zfcuda.deconv(net, x, "a"), zfcuda.deconv(net, x, "b"))


@pytest.mark.parametrize("max_memory", [1, 200_000, None])
def test_batches_do_not_change_the_result(net, max_memory):
    x = torch.randn(5, 3, 16, 18, dtype=torch.float64)
    alone = [zfcuda.deconv(net, x[n : n + 1], "tail", k=2) for n in range(5)]
    together = zfcuda.deconv(net, x, "tail", k=2, max_memory=max_memory)
    torch.testing.assert_close(together, torch.cat(alone))


def test_several_layers_share_a_pass(make, x):
    net = make("Inception")
    result = projections(net, x, ["tail", "a.0", "tail"], k=2)
    assert result.layers == ("tail", "a.0")
    assert result.columns == (
        "image 0, unit 1",
        "image 0, unit 2",
        "image 1, unit 1",
        "image 1, unit 2",
    )
    assert torch.equal(result.images, x[[0, 0, 1, 1]])
    for layer in result.layers:
        alone = zfcuda.deconv(net, x, layer, k=2)
        torch.testing.assert_close(result.projections[layer], alone.flatten(0, 1))


def test_nan_propagates(make, x):
    net = make("VGGLike")
    x[1, 0, 5, 5] = math.nan
    projection = zfcuda.deconv(net, x, "tail")
    assert not projection[0].isnan().any()
    assert projection[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_other_dtypes(make, x, dtype):
    net = make("VGGLike").to(dtype)
    projection = zfcuda.deconv(net, x.to(dtype), "tail", channel=0, position=(0, 0), seed=1.0)
    assert projection.dtype == dtype
    exact = zfcuda.deconv(net.double(), x.to(dtype).double(), "tail", 0, (0, 0), seed=1.0)
    error = (projection.double() - exact).norm() / exact.norm()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 0.3, torch.float16: 0.05}[dtype]


def test_autocast(make, x):
    net, x = make("VGGLike").float(), x.float()
    expected = zfcuda.deconv(net, x, "tail", 0, (0, 0))
    with torch.autocast("cpu", torch.bfloat16):
        projection = zfcuda.deconv(net, x, "tail", 0, (0, 0))
    assert projection.dtype == torch.float32
    assert (projection - expected).norm() / expected.norm() < 0.3


def test_channels_last_gives_the_same(net, x):
    layout = torch.channels_last
    expected = zfcuda.deconv(net, x, "tail")
    projection = zfcuda.deconv(net.to(memory_format=layout), x.to(memory_format=layout), "tail")
    torch.testing.assert_close(projection, expected)


class Modern(nn.Module):
    """SiLU, squeeze-and-excitation, LayerNorm; a sigmoid after the layer we look at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.excite = nn.Conv2d(4, 4, 1)
        self.norm = nn.LayerNorm([14, 16])
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        x = F.silu(self.conv(x))
        x = x * F.hardsigmoid(self.excite(x.mean((2, 3), keepdim=True)))
        return torch.sigmoid(self.last(self.norm(x)))


def test_other_nonlinearities_use_their_gradient_with_one_warning(x):
    net = Modern().double()
    with pytest.warns(UserWarning) as caught:
        projection = zfcuda.deconv(net, x, "last")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    for name in ("silu", "hardsigmoid", "mul", "layer_norm"):
        assert name in message
    assert "sigmoid," not in message.replace("hardsigmoid", "")  # it comes after the layer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient = zfcuda.deconv(net, x, "last", rule="gradient")
        zfcuda.deconv(net, x, "conv")
    torch.testing.assert_close(projection, gradient)  # there is no ReLU in this net


def test_a_product_with_a_constant_is_linear(x):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(3, 1, 1))
            self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1))

        def forward(self, x):
            return self.last(x * self.scale / 3 - self.scale)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.deconv(Scaled().double(), x, "last")


def test_what_custom_functions_hide_is_named(x):
    class Swish(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x.sigmoid()

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * x.sigmoid() * (1 + x * (1 - x.sigmoid()))

    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity(), nn.Conv2d(3, 3, 1)).double()
    net[1].forward = Swish.apply
    with pytest.warns(UserWarning, match="swish"):
        zfcuda.deconv(net, x, "2")
