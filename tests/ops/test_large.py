"""Tensors past 2^30 and 2^31 elements, where indices no longer fit 32 bits."""

import pytest
import torch

from zfcuda.ops import reference

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rows", [2**15 + 4, 2**13 + 4], ids=["64 bits", "32 bits"])
def test_pool_and_unpool_past_int32(place, rows):
    """The far end of the tensor is pooled and unpooled like a small tensor of the same values."""
    width = 2**16  # 2^31 and a few elements, 4 GiB; and 2^29, the most that 32 bits are used for
    x = torch.zeros(1, 1, rows, width, dtype=torch.float16, device=place.device)
    tail = torch.randn(1, 1, 8, width, device=place.device).half()
    x[:, :, -8:] = tail
    window = ([2, 2], [2, 2], [0, 0], [1, 1])
    y, switches = place.op("max_pool2d")(x, *window, False, False)
    expected, expected_switches = reference.max_pool2d(tail, (2, 2), (2, 2))
    assert torch.equal(y[:, :, -4:], expected)
    assert torch.equal(switches[:, :, -4:], expected_switches)
    del x
    out = place.op("max_unpool2d")(y, switches, *window, [rows, width], False, False, False)
    unpooled = reference.max_unpool2d(expected, expected_switches, *map(tuple, window), (8, width))
    assert torch.equal(out[:, :, -8:], unpooled) and not out[:, :, :-8].any()


def test_occlude_past_int32(place):
    x = torch.arange(2**16, dtype=torch.float16, device=place.device).reshape(1, 1, 256, 256)
    count = 2**15 + 1  # copies of 2^16 elements
    boxes = torch.zeros(count, 4, dtype=torch.int64, device=place.device)
    boxes[-1] = torch.tensor([10, 20, 30, 40])
    out = place.op("occlude")(x, boxes, torch.ones(1, dtype=x.dtype, device=place.device))
    assert torch.equal(out[0, -2], x[0])
    assert torch.equal(out[:, -1:], reference.occlude(x, boxes[-1:], 1.0))


def test_windows_past_int32(place):
    """The last windows of an output, and the last pixels of a patch, beyond 2^31 elements."""
    pixels = 2**21 + 64  # of 1024 channels: 4 GiB
    arguments = {"dtype": torch.float16, "device": place.device}
    out = torch.zeros(pixels, 1024, **arguments)
    base = torch.randn(1, 8, 8, 1024, device=place.device).half()
    window = torch.tensor([[0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 8, 8, pixels - 64]]).to(place.device)
    place.op("gather_windows")(base, [], window, out, 64, 0, 0.0, False)
    assert torch.equal(out[-64:].view(base.shape), base) and not out[-128:-64].any()

    # Now `out` is a buffer, with the patch at its end.
    patch = torch.tensor([[0, 0, pixels - 64, 8, 0, 0, 8, 8, 0, 0, 8, 8, 0]]).to(place.device)
    copy = torch.zeros(64, 1024, **arguments)
    place.op("gather_windows")(None, [out], patch, copy, 64, 0, 0.0, False)
    assert torch.equal(copy.view(base.shape), base)
    pair = ([1, 1], [1, 1], [0, 0], [1, 1])
    place.op("pool_windows")(torch.zeros_like(base), [out], patch, copy, 64, *pair, False)
    assert torch.equal(copy.view(base.shape), base)
    switches = torch.zeros(base.shape, dtype=torch.uint8, device=place.device)
    place.op("unpool_windows")(switches, [out], patch, copy, 64, *pair, False, False)
    assert torch.equal(copy.view(base.shape), base)


def test_local_response_norm_past_int32(place):
    """Every position's channels are its own: the far end is normalised as alone."""
    x = torch.zeros(1, 8, 2**14, 2**14 + 4, dtype=torch.float16, device=place.device)
    tail = 3 * torch.randn(1, 8, 2, x.shape[-1], device=place.device).half()
    x[:, :, -2:] = tail
    y = place.op("local_response_norm")(x, 5, 1e-2, 0.75, 2.0)
    expected = reference.local_response_norm(tail, 5, 1e-2, 0.75, 2.0)
    torch.testing.assert_close(y[:, :, -2:], expected, rtol=1e-3, atol=1e-4)
    assert not y[:, :, :-2].any()


def test_warp_affine_past_int32(place):
    x = torch.randn(1, 1, 256, 256, device=place.device).half()
    matrices = torch.eye(2, 3, dtype=torch.float64).repeat(2**15 + 1, 1, 1)
    matrices[-1] = torch.tensor([[0.8, -0.6, 30.0], [0.6, 0.8, -20.0]])
    matrices = matrices.to(place.device)
    fill = torch.ones(1, dtype=x.dtype, device=place.device)
    out = place.op("warp_affine")(x, matrices, fill)
    expected = reference.warp_affine(x, matrices[-2:], 1.0)
    torch.testing.assert_close(out[:, -2:], expected, rtol=1e-3, atol=4e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_spatial_max_past_int32(place, layout):
    """Maxima beyond 2^31 elements, in many small maps (contiguous) and in large ones."""
    shape = (
        (2**19 + 1, 4, 32, 32) if layout == torch.contiguous_format else (1, 8, 2**14, 2**14 + 8)
    )
    x = torch.empty(shape, dtype=torch.float16, device=place.device, memory_format=layout).zero_()
    x[-1, -1, -1, -2] = 3.0
    x[-1, -2, -3, 5] = torch.nan
    values, places = place.op("spatial_max")(x)
    _, _, height, width = shape
    assert places[-1, -2:].tolist() == [(height - 3) * width + 5, height * width - 2]
    assert values[-1, -1] == 3 and values[-1, -2].isnan()
    assert not values[:-1].any() and not places[:-1].any()
    assert not values[-1, :-2].any() and not places[-1, :-2].any()


def test_backward_past_int32(place):
    """Gradients at the far end are those of a small tensor of the same values."""
    rows, width = 2**15 + 4, 2**16
    grad = torch.zeros(1, 1, rows, width, dtype=torch.float16, device=place.device)
    tail = torch.randn(1, 1, 8, width, device=place.device).half()
    grad[:, :, -8:] = tail
    switches = torch.full((1, 1, rows // 2, width // 2), 3, dtype=torch.uint8, device=place.device)
    window = ([2, 2], [2, 2], [0, 0], [1, 1])
    found = place.op("max_unpool2d_backward")(grad, switches, None, *window, False)
    assert torch.equal(found[:, :, -4:], tail[:, :, 1::2, 1::2]) and not found[:, :, :-4].any()
    del found, switches

    pooled, taps = reference.max_pool2d(tail, (2, 2), (2, 2))
    small = torch.zeros(1, 1, rows // 2, width // 2, dtype=torch.float16, device=place.device)
    small[:, :, -4:] = pooled
    switches = torch.zeros(small.shape, dtype=torch.uint8, device=place.device)
    switches[:, :, -4:] = taps
    found = place.op("max_pool2d_backward")(small, switches, None, *window, [rows, width])
    expected = reference.max_unpool2d(pooled, taps, *map(tuple, window), (8, width))
    assert torch.equal(found[:, :, -8:], expected) and not found[:, :, :-8].any()


def test_backward_of_normalisation_past_int32(place):
    shape = (1, 8, 2**14, 2**14 + 4)
    x, grad = (torch.zeros(shape, dtype=torch.float16, device=place.device) for _ in range(2))
    tails = [torch.randn(1, 8, 2, shape[-1], device=place.device).half() for _ in range(2)]
    x[:, :, -2:], grad[:, :, -2:] = tails
    constants = (5, 1e-2, 0.75, 2.0)
    found = place.op("local_response_norm_backward")(grad, x, *constants)
    small = tails[0].double().requires_grad_()
    reference.local_response_norm(small, *constants).backward(tails[1].double())
    torch.testing.assert_close(found[:, :, -2:], small.grad.half(), rtol=2e-3, atol=1e-4)
    assert not found[:, :, :-2].any()


def test_backward_of_warping_past_int32(place):
    if place.device == "cpu":
        pytest.skip("hours on a CPU, where all indices have 64 bits")
    maps = 2**15 + 1
    grad = torch.zeros(1, maps, 1, 256, 256, dtype=torch.float16, device=place.device)
    grad[:, -1] = torch.randn(1, 1, 256, 256, device=place.device).half()
    matrices = torch.eye(2, 3, dtype=torch.float64, device=place.device).repeat(maps, 1, 1)
    found = place.op("warp_affine_backward")(grad, matrices, False)
    assert torch.equal(found, grad[:, -1])
