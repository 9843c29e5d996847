"""warp_affine against the reference, torch's grid_sample, and exact cases."""

import math

import pytest
import torch
import torch.nn.functional as F
from strategies import DTYPES, LAYOUTS, image

from zfcuda import ops
from zfcuda.ops import reference

TOLERANCE = {
    # float32 coordinates carry an error of a few 1e-6 pixels, times the gradient of the image.
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
    torch.float64: {"rtol": 1e-11, "atol": 1e-11},
    torch.float16: {"rtol": 2e-3, "atol": 2e-3},
    torch.bfloat16: {"rtol": 1e-2, "atol": 2e-2},
}


def rotation(degrees, height, width):
    """Output to input coordinates of a turn about the centre; y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]]


def maps(height, width, device="cpu"):
    return torch.tensor(
        [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
            rotation(30, height, width),
            rotation(191.5, height, width),
            [[0.5, 0.1, 2.3], [-0.2, 0.7, 1.1]],  # zoom and shear
            [[3.0, 0.0, -7.0], [0.0, 2.5, 4.0]],  # mostly outside
            [[1.0, 0.0, 1000.0], [0.0, 1.0, 0.0]],  # all outside
            [[1.0, 0.0, -0.25], [0.0, 1.0, 0.75]],
            [[-1.0, 0.0, width], [0.0, 1.0, 0.0]],  # mirror
        ],
        dtype=torch.float64,
        device=device,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_equals_reference(place, dtype, layout):
    for channels, size in ((3, (17, 24)), (1, (5, 5)), (16, (9, 12)), (2, (1, 7)), (5, (33, 40))):
        x = image(2, channels, size, dtype, layout, device=place.device)
        matrices = maps(*size, place.device)
        for fill in (
            torch.zeros(channels, device=place.device).to(dtype),
            torch.linspace(-1, 2, channels, device=place.device).to(dtype),
        ):
            out = place.op("warp_affine")(x, matrices, fill)
            expected = reference.warp_affine(x, matrices, fill)
            assert out.dtype == dtype and out[0].is_contiguous(memory_format=layout)
            torch.testing.assert_close(out, expected, **TOLERANCE[dtype])


def test_equals_grid_sample():
    x = image(2, 3, (16, 16), torch.float64)
    cos, sin = math.cos(0.5), math.sin(0.5)
    theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64)
    grid = F.affine_grid(theta.expand(2, -1, -1), list(x.shape), align_corners=False)
    expected = F.grid_sample(x, grid, align_corners=False)
    matrix = torch.tensor([rotation(math.degrees(0.5), 16, 16)], dtype=torch.float64)
    torch.testing.assert_close(ops.warp_affine(x, matrix)[:, 0], expected)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_samples_just_inside_the_far_edge(place, layout):
    """In float32 one more than such a coordinate is beyond the image, at a width of 2^n."""
    x = image(1, 3, (32, 32), torch.float32, layout, device=place.device)
    edge = 32 - 2.0**-19  # float32's neighbour of 32
    matrices = torch.tensor(
        [[[1.0, 0.0, edge], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, edge]]],
        dtype=torch.float64,
        device=place.device,
    )
    out = place.op("warp_affine")(x, matrices, torch.zeros(3, device=place.device))
    expected = reference.warp_affine(x, matrices)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)


EXACT = {
    "same": ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], lambda x: x),
    "counter-clockwise": (
        [[0.0, -1.0, 21.0], [1.0, 0.0, 0.0]],
        lambda x: x.rot90(1, (2, 3)),
    ),
    "half turn": ([[-1.0, 0.0, 21.0], [0.0, -1.0, 21.0]], lambda x: x.flip(2, 3)),
    "shift": ([[1.0, 0.0, 2.0], [0.0, 1.0, -3.0]], lambda x: F.pad(x[..., :-3, 2:], (0, 2, 3, 0))),
}


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_what_is_not_finite_shows_only_where_it_is_sampled(place, channels, layout, dtype, value):
    x = image(2, channels, (21, 21), dtype, layout, device=place.device)
    for row, column in ((0, 0), (7, 4), (20, 11), (12, 20)):
        x[0, -1, row, column] = value
    fill = torch.zeros(channels, dtype=dtype, device=place.device)
    matrices = torch.tensor([matrix for matrix, _ in EXACT.values()], dtype=torch.float64)
    out = place.op("warp_affine")(x, matrices.to(place.device), fill)
    for copy, (name, (_, exact)) in zip(out.unbind(1), EXACT.items(), strict=True):
        assert same(copy, exact(x)), name
    inside = place.op("warp_affine")(x, matrices[:3].to(place.device), fill + math.nan)
    assert same(inside, out[:, :3]), "a fill that nothing samples"
    # Coordinates without rounding, so that all agree which weights are zero.
    between = torch.tensor(
        [[[1.0, 0.0, -0.25], [0.0, 1.0, 0.75]], [[0.5, 0.0, 0.25], [0.0, 0.5, 4.25]]],
        dtype=torch.float64,
        device=place.device,
    )
    expected = reference.warp_affine(x, between, fill)
    ours = place.op("warp_affine")(x, between, fill)
    assert 0 < (~ours.isfinite()).sum() < 40
    torch.testing.assert_close(ours, expected, equal_nan=True, **TOLERANCE[dtype])


def test_a_gradient_that_is_not_finite_reaches_only_what_was_sampled(place):
    for layout in LAYOUTS.values():
        x = image(1, 3, (21, 21), torch.float64, layout).requires_grad_()
        matrices = torch.tensor([matrix for matrix, _ in EXACT.values()], dtype=torch.float64)
        out = reference.warp_affine(x, matrices)
        grad = torch.randn_like(out)
        grad[0, :, :, 6, 9], grad[0, 1, 2, 3, 4] = math.nan, math.inf
        (expected,) = torch.autograd.grad(out, x, grad)
        ours = place.op("warp_affine_backward")(
            grad.to(place.device), matrices.to(place.device), layout is torch.channels_last
        ).cpu()
        assert 0 < ours.isnan().sum() < 20
        assert torch.equal(ours.isnan(), expected.isnan())
        torch.testing.assert_close(ours, expected, equal_nan=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_wild_matrices_give_the_fill(place, value):
    x = image(1, 2, (6, 8), torch.float32, device=place.device)
    matrix = torch.tensor([[[1.0, 0.0, value], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    out = place.op("warp_affine")(
        x, matrix.to(place.device), torch.tensor([3.0, 4.0], device=place.device)
    )
    assert out[:, :, 0].eq(3).all() and out[:, :, 1].eq(4).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_backward(place, layout, dtype):
    """The kernel gathers through the inverse map; autograd through the reference scatters."""
    size = (11, 14)
    singular = torch.tensor([[[1.0, 2.0, 1.0], [0.5, 1.0, 3.0]]], dtype=torch.float64)
    matrices = torch.cat([maps(*size), singular]).to(place.device)
    x = image(2, 3, size, torch.float64, device=place.device).requires_grad_()
    out = reference.warp_affine(x, matrices)
    grad = torch.randn(out.shape).to(dtype).to(place.device)
    (expected,) = torch.autograd.grad(out, x, grad.double())
    ours = place.op("warp_affine_backward")(grad, matrices, layout is torch.channels_last)
    assert ours.is_contiguous(memory_format=layout)
    torch.testing.assert_close(ours.double(), expected, **TOLERANCE[dtype])


def test_empty(place):
    x = image(2, 3, (4, 4), torch.float32, device=place.device)
    fill = torch.zeros(3, device=place.device)
    none = torch.empty(0, 2, 3, dtype=torch.float64, device=place.device)
    assert place.op("warp_affine")(x, none, fill).shape == (2, 0, 3, 4, 4)
    assert place.op("warp_affine")(x[:0], maps(4, 4, place.device), fill).shape == (0, 8, 3, 4, 4)
    grad = torch.empty(2, 0, 3, 4, 4, device=place.device)
    assert place.op("warp_affine_backward")(grad, none, False).eq(0).all()
