"""local_response_norm against the reference and torch."""

import pytest
import torch
import torch.nn.functional as F
from strategies import DTYPES, LAYOUTS, has_layout, image

from zfcuda import nn, ops
from zfcuda.ops import reference

TOLERANCE = {
    torch.float32: {"rtol": 2e-6, "atol": 1e-6},
    torch.float64: {"rtol": 1e-13, "atol": 1e-13},
    torch.float16: {"rtol": 1e-3, "atol": 1e-4},
    torch.bfloat16: {"rtol": 8e-3, "atol": 1e-3},
}
CONSTANTS = {
    "AlexNet": (5, 1e-4, 0.75, 2.0),
    "strong": (5, 0.5, 0.75, 1.0),
    "one channel": (1, 0.3, 0.5, 1.0),
    "even window": (4, 0.7, 1.0, 1.5),
    "any power": (3, 0.2, 0.6, 1.0),
    "wider than the channels": (37, 0.9, 0.75, 1.0),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("constants", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_equals_reference(place, constants, dtype):
    for channels in (1, 2, 8, 35, 96):
        for size in ((3, 5), (8, 8), (25, 29)):  # the last is longer than a chunk
            for layout in LAYOUTS.values():
                x = 3 * image(2, channels, size, dtype, layout, device=place.device)
                y = place.op("local_response_norm")(x, *constants)
                expected = reference.local_response_norm(x, *constants)
                assert y.dtype == dtype and has_layout(y, layout)
                torch.testing.assert_close(y, expected, **TOLERANCE[dtype])


@pytest.mark.parametrize("size", [2**33, 2**33 + 1])
def test_a_huge_window_is_all_channels(place, size):
    x = 3 * image(2, 8, (5, 6), torch.float64, device=place.device)
    y = place.op("local_response_norm")(x, size, 1e8, 0.75, 1.0)
    expected = x / (1 + 1e8 / size * x.square().sum(1, keepdim=True)) ** 0.75
    torch.testing.assert_close(y, expected)


def test_equals_torch():
    x = 3 * image(2, 12, (9, 11), torch.float64)
    for constants in CONSTANTS.values():
        torch.testing.assert_close(
            ops.local_response_norm(x, *constants), F.local_response_norm(x, *constants)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("constants", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_backward(place, constants, dtype):
    for channels in (1, 7, 32):
        for layout in LAYOUTS.values():
            x = (
                3 * image(2, channels, (23, 24), dtype, layout, device=place.device)
            ).requires_grad_()
            grad = torch.randn_like(x)
            ours = place.op("local_response_norm_backward")(grad, x.detach(), *constants)
            wide = x.detach().double().requires_grad_()
            (expected,) = torch.autograd.grad(
                reference.local_response_norm(wide, *constants), wide, grad.double()
            )
            assert has_layout(ours, layout)
            tolerance = {key: 10 * value for key, value in TOLERANCE[dtype].items()}
            torch.testing.assert_close(ours.double(), expected, **tolerance)


# k + alpha * squares nearly cancels for a negative alpha, and a power of 20 makes the rounding of
# what remains 20 times as large. nvcc fuses multiplications with additions, which then round once,
# where torch and the CPU kernels round twice.
CORNERS = {
    "cpu": {torch.float32: 5e-5, torch.float64: 2e-13},
    "fused": {torch.float32: 3e-4, torch.float64: 1e-12},
}


def agree(ours, theirs, rounding):
    """Equal up to rounding, where NaN and infinite likewise."""
    tiny = torch.finfo(ours.dtype).tiny
    tolerance = CORNERS[rounding][ours.dtype]
    torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=tolerance, atol=4 * tiny)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 2.0, 3.0, 20.0, 0.25, 0.0, -0.5, -0.75, 1.5])
@pytest.mark.parametrize("alpha", [1.0, 1e-4, 0.0, -1.0, -1e-4])
def test_corners_equal_torch(place, alpha, beta, dtype):
    """Denominators that vanish, overflow or are negative, and powers of them that do."""
    small, large = (1e-18, 1e19) if dtype is torch.float32 else (1e-150, 1e154)
    scales = [0, small, small**0.5, 1e-5, 1, 1e5, large**0.25, large**0.5, large, 9 * large]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 6, 20, dtype=torch.float64, generator=generator)
    x = (x * torch.tensor(scales, dtype=torch.float64).repeat(2)).to(dtype)
    for layout in LAYOUTS.values():
        x = x.contiguous(memory_format=layout).to(place.device)
        for size in (5, 3):
            for k in (0.0, 2.0):
                expected = F.local_response_norm(x, size, alpha, beta, k)
                ours = place.op("local_response_norm")(x, size, alpha, beta, k)
                agree(ours, expected, "cpu" if place.name == "cpu" else "fused")
                plain = reference.local_response_norm(x, size, alpha, beta, k)
                agree(plain, expected, "cpu" if place.device == "cpu" else "fused")


def test_nan_stays_in_its_window(place):
    x = image(1, 32, (4, 8), torch.float32, device=place.device)
    x[0, 10, 1, 1] = torch.nan
    y = place.op("local_response_norm")(x, 5, 1e-4, 0.75, 1.0)
    assert y.isnan().nonzero()[:, 1].tolist() == [8, 9, 10, 11, 12]


def test_empty_and_strided(place):
    op = place.op("local_response_norm")
    none = torch.empty(0, 3, 4, 4, device=place.device)
    assert op(none, 5, 1e-4, 0.75, 1.0).shape == none.shape
    x = image(2, 12, (9, 11), torch.float32, device=place.device)[:, ::2, :, 1:]
    torch.testing.assert_close(
        op(x, 5, 0.1, 0.75, 1.0), reference.local_response_norm(x, 5, 0.1, 0.75, 1.0)
    )


def test_module_is_drop_in():
    x = image(2, 9, (5, 4), torch.float32)
    ours, theirs = (kind.LocalResponseNorm(5, 1e-3, 0.75, 2.0) for kind in (nn, torch.nn))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours(x[0]), theirs(x[0]))  # [N,C,L]
    torch.testing.assert_close(ours(x[..., None]), theirs(x[..., None]))
    assert repr(ours) == repr(theirs)
