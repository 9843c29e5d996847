"""max_pool2d against the reference and torch, in every place, dtype and layout."""

import pytest
import torch
import torch.nn.functional as F
from strategies import DTYPES, LAYOUTS, WINDOWS, fits, has_layout, image, sizes_and_channels

from zfcuda import nn, ops
from zfcuda.ops import reference


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a[~a.isnan()], b[~b.isnan()])


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_equals_reference(place, window, relu):
    tried = 0
    for size, channels in sizes_and_channels(window, relu):
        for name, layout in LAYOUTS.items():
            if fits(size, window):
                x = image(2, channels, size, torch.float32, layout, ties=True, device=place.device)
                y, switches = place.op("max_pool2d")(x, *window, relu)
                expected, expected_switches = reference.max_pool2d(x, *window, relu)
                where = f"{size} {channels} {name}"
                assert same(y, expected), where
                assert torch.equal(switches, expected_switches), where
                assert has_layout(y, layout) and has_layout(switches, layout), where
                tried += 1
    assert tried >= 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(place, dtype):
    for window in WINDOWS.values():
        if window[0][0] > 5 or not fits((13, 35), window):
            continue
        for layout in LAYOUTS.values():
            x = image(2, 20, (13, 35), dtype, layout, device=place.device)
            y, switches = place.op("max_pool2d")(x, *window[:4], window[4], False)
            expected, expected_switches = reference.max_pool2d(x, *window)
            assert y.dtype == dtype and same(y, expected)
            assert torch.equal(switches, expected_switches)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_equals_torch(window):
    """Values, and switches as torch's indices, against torch itself (the reference's own check)."""
    kernel, stride, padding, dilation, ceil_mode = window
    x = image(2, 5, (19, 23), torch.float32, ties=True)
    x[0, 0, 3:9, 4:11] = torch.nan
    y, switches = ops.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    expected, indices = F.max_pool2d(
        x, kernel, stride, padding, dilation, ceil_mode, return_indices=True
    )
    real = switches != (255 if switches.dtype == torch.uint8 else -1)
    assert same(y, expected)
    ours = ops.switches_to_indices(
        switches, kernel, stride, padding, dilation, input_size=x.shape[-2:]
    )
    assert torch.equal(ours[real], indices[real])
    assert (ours[~real] == -1).all() and torch.isneginf(y[~real]).all()


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_last_of_several_nans_wins(place, layout, channels):
    for window in (WINDOWS["3/2 padded ceil"], WINDOWS["2/2 the VGG pool"], WINDOWS["dilated"]):
        x = image(1, channels, (12, 40), torch.float32, layout, device=place.device)
        x[torch.rand_like(x) < 0.3] = torch.nan
        for relu in (False, True):
            y, switches = place.op("max_pool2d")(x, *window[:4], window[4], relu)
            expected, expected_switches = reference.max_pool2d(x, *window, relu)
            assert same(y, expected) and expected.isnan().any()
            assert torch.equal(switches, expected_switches)


def test_minus_infinity_and_negative_inputs_keep_the_first_tap(place):
    x = torch.full((1, 1, 6, 40), -torch.inf, device=place.device)
    y, switches = place.op("max_pool2d")(x, [3, 3], [2, 2], [1, 1], [1, 1], False, False)
    assert torch.isneginf(y).all()
    assert switches[0, 0, 0, 0] == 4 and switches[0, 0, 1, 1] == 0
    y, switches = place.op("max_pool2d")(-x.abs(), [3, 3], [2, 2], [1, 1], [1, 1], False, True)
    assert (y == 0).all() and switches[0, 0, 0, 0] == 4


def test_any_strides(place):
    x = image(4, 6, (18, 22), torch.float32, device=place.device)
    for view in (
        x[:, ::2, 1:, ::2],
        x.transpose(2, 3),
        x[:1].expand(3, -1, -1, -1),
        x.contiguous(memory_format=torch.channels_last)[:, :, 1:, 1:],
        x[:, 1:2],
    ):
        y, switches = place.op("max_pool2d")(view, [3, 3], [2, 2], [0, 0], [1, 1], True, False)
        expected, expected_switches = reference.max_pool2d(view, (3, 3), (2, 2), ceil_mode=True)
        assert torch.equal(y, expected) and torch.equal(switches, expected_switches)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8)])
def test_empty(place, shape):
    y, switches = place.op("max_pool2d")(
        torch.empty(shape, device=place.device), [3, 3], [2, 2], [0, 0], [1, 1], True, False
    )
    assert y.shape == switches.shape == (*shape[:2], 4, 4)


def test_switches_take_an_eighth_of_torchs_indices():
    x = image(1, 8, (32, 32), torch.float32)
    _, switches = ops.max_pool2d(x, 3, 2)
    _, indices = F.max_pool2d(x, 3, 2, return_indices=True)
    assert indices.nbytes == 8 * switches.nbytes


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("window", WINDOWS.values(), ids=WINDOWS.keys())
def test_backward_equals_torchs(place, window, layout, relu):
    kernel, stride, padding, dilation, ceil_mode = window
    size = (19, 24)
    x = image(2, 19, size, torch.float64, layout, device=place.device).requires_grad_()
    y, switches = place.op("max_pool2d")(x.detach(), *window[:4], ceil_mode, relu)
    grad = torch.randn_like(y).contiguous(memory_format=layout)
    expected_y = F.max_pool2d(
        torch.relu(x) if relu else x, kernel, stride, padding, dilation, ceil_mode
    )
    real = torch.isfinite(expected_y)  # torch has no gradient for a window without taps
    (expected,) = torch.autograd.grad(expected_y, x, torch.where(real, grad, 0))
    ours = place.op("max_pool2d_backward")(
        grad, switches, y if relu else None, *window[:4], list(size)
    )
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    assert has_layout(ours, layout)


def test_gradient_may_arrive_expanded():
    x = image(1, 3, (8, 8), torch.float32).requires_grad_()
    ops.max_pool2d(x, 2)[0].sum().backward()
    assert x.grad is not None and x.grad.sum() == 3 * 16


class TestModule:
    """zfcuda.nn.MaxPool2d in torch's place."""

    def test_drop_in(self):
        x = image(2, 3, (13, 14), torch.float32)
        for options in ({"stride": 2}, {"padding": 1, "ceil_mode": True}, {"dilation": 2}):
            ours, theirs = nn.MaxPool2d(3, **options), torch.nn.MaxPool2d(3, **options)
            assert torch.equal(ours(x), theirs(x))
            assert torch.equal(ours(x[0]), theirs(x[0]))
            assert ours.state_dict() == theirs.state_dict()
        y, indices = nn.MaxPool2d(3, 2, return_indices=True)(x)
        expected, expected_indices = torch.nn.MaxPool2d(3, 2, return_indices=True)(x)
        assert torch.equal(y, expected) and torch.equal(indices, expected_indices)

    def test_return_switches(self):
        x = image(2, 3, (13, 14), torch.float32)
        y, switches = nn.MaxPool2d(3, 2, relu=True, return_switches=True)(x)
        assert torch.equal(y, F.max_pool2d(torch.relu(x), 3, 2)) and switches.dtype == torch.uint8

    def test_compiles_whole(self):
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), nn.MaxPool2d(3, 2, relu=True), nn.LocalResponseNorm(5)
        )
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        x = image(2, 3, (13, 14), torch.float32)
        expected = model(x)
        torch.testing.assert_close(compiled(x), expected)
        gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
        ours = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
        for a, b in zip(ours, gradients, strict=True):
            torch.testing.assert_close(a, b)
