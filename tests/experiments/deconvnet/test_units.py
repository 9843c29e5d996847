"""Which units are projected, from which seed, in which batches, and with which warnings."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo import Model, output_of

import zfcuda
from zfcuda.experiments.deconvnet.projecting import projections


def between(middle, **layers):
    """``middle``, a function of the module and the maps, between two convolutions."""
    layers |= {"stem": nn.Conv2d(3, 4, 3), "tail": nn.Conv2d(4, 2, 1)}
    return Model(lambda m, x: m.tail(middle(m, m.stem(x))), **layers).double()


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


def test_images_that_are_written_later(make, x):
    x = x.clone()
    found = zfcuda.project(make("VGGLike"), x, "tail")
    before = found.images.clone()
    x.zero_()
    assert torch.equal(found.images, before)


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


def test_other_nonlinearities_use_their_gradient_with_one_warning(x):
    """SiLU, squeeze-and-excitation, LayerNorm; a sigmoid after the layer we look at."""

    def forward(m, x):
        x = F.silu(m.conv(x))
        x = x * F.hardsigmoid(m.excite(x.mean((2, 3), keepdim=True)))
        return torch.sigmoid(m.last(m.norm(x)))

    layers = {"conv": nn.Conv2d(3, 4, 3), "excite": nn.Conv2d(4, 4, 1), "last": nn.Conv2d(4, 2, 1)}
    net = Model(forward, **layers, norm=nn.LayerNorm([14, 16])).double()
    with pytest.warns(UserWarning) as caught:
        projection = zfcuda.deconv(net, x, "last")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    message = str(caught[0].message)
    for name in ("silu", "hardsigmoid", "mul", "LayerNorm 'norm'"):
        assert name in message
    assert "sigmoid," not in message.replace("hardsigmoid", "")  # it comes after the layer
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient = zfcuda.deconv(net, x, "last", rule="gradient")
        zfcuda.deconv(net, x, "conv")
    torch.testing.assert_close(projection, gradient)  # there is no ReLU in this net


def test_a_product_with_a_constant_is_linear(x):
    last = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 1))
    scaled = {"scale": nn.Parameter(torch.rand(3, 1, 1)), "last": last}
    net = Model(lambda m, x: m.last(x * m.scale / 3 - m.scale), **scaled).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zfcuda.deconv(net, x, "last")


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
    with pytest.warns(UserWarning, match="no rule for Identity '1';"):
        zfcuda.deconv(net, x, "2")

    with pytest.warns(UserWarning, match="no rule for Swish;"):
        zfcuda.deconv(between(lambda m, x: Swish.apply(x)), x, "tail")


@pytest.mark.parametrize("engine", ["cones", "autograd"])
def test_warnings_name_layers_as_their_author_did(x, engine):
    class Gate(nn.Module):
        def forward(self, x):
            return x * x.sigmoid()

    net = nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 8, 3),
            acts=nn.Sequential(*(nn.GELU() for _ in range(5)), nn.PReLU()),
            shrink=nn.Hardshrink(),
            gate=Gate(),
            elu=nn.ELU(),
            softmax=nn.Softmax(1),
            tail=nn.Conv2d(8, 2, 1),
        )
    ).double()
    if engine == "autograd":
        net.stem.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning) as caught:
        zfcuda.deconv(net, x, "tail")
    assert len(caught) == 1
    said = str(caught[0].message).removeprefix("the deconvnet has no rule for ")
    names, _, _ = said.partition(";")
    assert sorted(names.split(", ")) == [
        "'acts.1'", "'acts.2' and 2 more", "ELU 'elu'", "GELU 'acts.0'", "Gate 'gate'",
        "Hardshrink 'shrink'", "Softmax 'softmax'",
    ]  # fmt: skip


def test_whole_modules_of_torchs_are_named_not_their_inner_functions(x):
    def attend(m, x):
        pixels = x.flatten(2).mT
        return m.attention(pixels, pixels, pixels)[0].mT.reshape(x.shape)

    net = between(attend, attention=nn.MultiheadAttention(4, 2, batch_first=True))
    with pytest.warns(UserWarning, match="no rule for MultiheadAttention 'attention';"):
        zfcuda.deconv(net, x, "tail")


MASKED = {
    "mul": lambda x: x * (x > 0.1),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "masked_fill": lambda x: x.masked_fill(x.abs() < 0.1, 0),
    "div": lambda x: x / (1 + (x > 0).float()),
    "minimum": lambda x: -torch.minimum(-x, torch.ones_like(x)),
}


@pytest.mark.parametrize("name", MASKED)
def test_masks_that_make_no_relu_are_named(x, name):
    with pytest.warns(UserWarning, match=f"no rule for {name};"):
        zfcuda.deconv(between(lambda m, x: MASKED[name](x)), x, "tail")


def test_masks_of_a_spectrum_are_named(x):
    def masked(m, x):
        spectrum = torch.fft.fft2(x)
        return torch.fft.ifft2(spectrum * (spectrum.abs() > 1)).real

    net = between(masked)
    with pytest.warns(UserWarning, match="mul"):
        found = zfcuda.deconv(net, x, "tail")
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule="gradient"))


def test_masks_that_do_not_come_from_the_signal_are_constants(x):
    def masked(m, x):
        assert (x == x).all()  # a look at the signal changes nothing
        return x * (m.kept > 0) * torch.ones_like(x, dtype=torch.bool)

    net = between(masked, kept=nn.Buffer(torch.tensor([1.0, 0, 1, 1]).view(4, 1, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = zfcuda.deconv(net, x, "tail")
    torch.testing.assert_close(found, zfcuda.deconv(net, x, "tail", rule="gradient"))


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("rule", ["deconv", "gradient"])
@pytest.mark.parametrize(("kind", "error"), [(torch.qint8, 0.05), (torch.float16, 0.01)])
def test_dynamically_quantised_layers_are_transposed(rule, kind, error):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10), nn.Linear(10, 5)
    ).eval()  # fmt: skip
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=kind)
    x = torch.randn(2, 3, 8, 8)
    for layer, channel in (("3", 4), ("4", 2)):
        found = zfcuda.deconv(quantised, x, layer, channel, seed=1.0, rule=rule)
        wanted = zfcuda.deconv(net, x, layer, channel, seed=1.0, rule=rule)
        assert (found - wanted).norm() < error * wanted.norm()


@pytest.mark.filterwarnings("ignore:.*")
def test_what_no_signal_passes_is_refused_by_name():
    quantisation = torch.ao.quantization
    net = nn.Sequential(
        quantisation.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), quantisation.DeQuantStub(),
        nn.Flatten(), nn.Linear(144, 5),
    ).eval()  # fmt: skip
    net.qconfig, net[5].qconfig = quantisation.default_qconfig, None
    prepared = quantisation.prepare(net)
    x = torch.randn(2, 3, 8, 8)
    prepared(x)
    quantised = quantisation.convert(prepared)
    for layer in ("2", "5"):
        message = rf"layer '{layer}' lies behind quantised modules, such as '0' \(Quantize\)"
        with pytest.raises(RuntimeError, match=message):
            zfcuda.deconv(quantised, x, layer)

    layers = {"lstm": nn.LSTM(8, 4, batch_first=True), "tail": nn.Linear(4, 5)}
    recurrent = Model(lambda m, x: m.tail(m.lstm(x.mean(1))[0][:, -1]), **layers).eval()
    quantised = quantisation.quantize_dynamic(recurrent, {nn.LSTM})
    with pytest.raises(RuntimeError, match="torch knows no gradient of LSTM 'lstm'"):
        zfcuda.deconv(quantised, x, "tail")
