"""Every image under every affine map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zfcuda.ops.library import (
    Tangents,
    check_tensor,
    define,
    derivative,
    empty_copies,
    fill_of,
    is_channels_last,
    kernels,
)

_NO_GRADIENT = "has no gradient for its matrices; pass matrices.detach()"


def warp_affine(x: Tensor, matrices: Tensor, fill: float | Tensor = 0.0) -> Tensor:
    """Every image under every affine map, bilinear, without a coordinate grid in memory.

    Args:
        x: [N,C,H,W].
        matrices: [M,2,3], mapping output to input pixel coordinates (x, y), pixel centres at +0.5;
            read as float64 whatever x's dtype. No gradient flows to them.
        fill: a number or one per channel [C]; taps outside the image take it before blending. No
            gradient flows to it. Taps of weight 0 do not count: what is NaN or infinite, in the
            image or as fill, shows only where it is sampled.

    Returns:
        [N,M,C,H,W], images of x's size; for a channels_last x each image is channels_last.

    Raises:
        ValueError: wrong ranks or shapes, matrices or a fill that require grad.
    """
    check_tensor(matrices, "matrices")
    if torch.is_grad_enabled():
        if matrices.requires_grad:
            raise ValueError(f"warp_affine {_NO_GRADIENT}")
        if isinstance(fill, Tensor) and fill.requires_grad:
            raise ValueError("warp_affine has no gradient for its fill; pass fill.detach()")
    matrices = matrices.to(device=x.device, dtype=torch.float64)
    return kernels.warp_affine(x, matrices, fill_of(x, fill, with_image=False))


define("warp_affine", lambda x, matrices, fill: empty_copies(x, matrices.shape[0]))


def _warp_affine_backward_fake(grad: Tensor, matrices: Tensor, channels_last: bool) -> Tensor:
    n, _, c, h, w = grad.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((n, c, h, w), dtype=grad.dtype, device=grad.device, memory_format=layout)


define("warp_affine_backward", _warp_affine_backward_fake)


def _warp_affine_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, matrices, _ = inputs
    ctx.save_for_backward(matrices)
    ctx.channels_last = is_channels_last(x)


def _warp_affine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (matrices,) = ctx.saved_tensors
    return kernels.warp_affine_backward(grad, matrices, ctx.channels_last), None, None


def _warp_affine_tangent(args: tuple[Any, ...], tangents: Tangents, output: Tensor) -> Tangents:
    x, matrices, fill = args
    dx, moved, dfill = tangents
    if moved is not None:
        raise RuntimeError(f"warp_affine {_NO_GRADIENT}")
    # Linear in the image and the fill.
    dx = torch.zeros_like(x) if dx is None else dx
    dfill = torch.zeros_like(fill) if dfill is None else dfill
    return (kernels.warp_affine(dx, matrices, dfill),)


derivative("warp_affine", _warp_affine_backward, _warp_affine_setup, _warp_affine_tangent)
