"""Max-pooling that remembers its switches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda.ops.library import IntPair, Tangents, define, derivative, empty, kernels, window_of
from zfcuda.ops.reference import pooled_size


def max_pool2d(
    x: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    relu: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pooling that remembers its switches (Zeiler & Fergus 2014, section 2.1), in one pass.

    Args:
        x: [N,C,H,W].
        kernel_size, stride, padding, dilation, ceil_mode: as ``torch.nn.functional.max_pool2d``.
        relu: exactly ``relu`` then pool, fused.

    Returns:
        ``(y, switches)``, both [N,C,OH,OW]. A switch is the number of the winning tap in its
        window, ``row * kernel_width + column``: ``uint8`` up to 255 taps, ``int32`` above. The
        first maximum in raster order wins; NaN wins over everything, the last one among several. A
        window with no tap inside the input (dilation with ceil_mode) has value ``-inf`` and switch
        255 (int32: -1).

    Raises:
        ValueError: wrong rank, a non-positive kernel, stride or dilation, padding above half the
            kernel, an empty output.
        TypeError: a dtype that is not floating point.
    """
    window = window_of(kernel_size, stride, padding, dilation)
    return kernels.max_pool2d(x, *window, ceil_mode, relu)


def switches_to_indices(
    switches: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    *,
    input_size: Sequence[int],
) -> Tensor:
    """Switches [N,C,OH,OW] as torch's int64 indices into the H*W input plane; -1 for "no tap"."""
    (_, kw), (sh, sw), (ph, pw), (dh, dw) = window_of(kernel_size, stride, padding, dilation)
    tap = switches.long()
    none = tap == (255 if switches.dtype == torch.uint8 else -1)
    rows = torch.arange(switches.shape[-2], device=switches.device)[:, None] * sh - ph
    cols = torch.arange(switches.shape[-1], device=switches.device) * sw - pw
    index = (rows + tap // kw * dh) * input_size[-1] + cols + tap % kw * dw
    return torch.where(none, -1, index)


def _max_pool2d_fake(x: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    *window, ceil_mode, _ = settings
    size = map(pooled_size, x.shape[2:], *window, (ceil_mode, ceil_mode))
    shape = (*x.shape[:2], *size)
    switch = torch.uint8 if math.prod(window[0]) <= 255 else torch.int32
    return empty(x, shape), empty(x, shape, switch)


define("max_pool2d", _max_pool2d_fake)
define(
    "max_pool2d_backward",
    lambda grad, switches, *settings: empty(switches, (*grad.shape[:2], *settings[-1]), grad.dtype),
)


def _max_pool2d_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, kernel_size, stride, padding, dilation, _, relu = inputs
    y, switches = output
    # The fused ReLU blocks the gradient where its output is not positive: y is kept anyway, x need
    # not be.
    ctx.save_for_backward(switches, *((y,) if relu else ()))
    ctx.window = (kernel_size, stride, padding, dilation)
    ctx.input_size = x.shape[-2:]
    ctx.mark_non_differentiable(switches)


def _max_pool2d_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    switches, *y = ctx.saved_tensors
    grad_x = kernels.max_pool2d_backward(
        grad, switches, y[0] if y else None, *ctx.window, ctx.input_size
    )
    return grad_x, None, None, None, None, None, None


def _max_pool2d_tangent(
    args: tuple[Any, ...], tangents: Tangents, output: tuple[Tensor, Tensor]
) -> Tangents:
    _, *window, _, relu = args
    y, switches = output
    tangent = kernels.max_unpool2d_backward(tangents[0], switches, None, *window, False)
    return (torch.where(y <= 0, 0, tangent) if relu else tangent), None


derivative("max_pool2d", _max_pool2d_backward, _max_pool2d_setup, _max_pool2d_tangent)
