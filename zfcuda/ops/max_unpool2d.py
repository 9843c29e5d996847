"""Max-pooling undone with its switches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zfcuda.ops.library import (
    IntPair,
    Tangents,
    define,
    derivative,
    empty,
    kernels,
    pair,
    window_of,
)


def max_unpool2d(
    y: Tensor,
    switches: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    output_size: Sequence[int] | None = None,
    relu: bool = False,
    overlap: Literal["sum", "overwrite"] = "sum",
    check: bool = False,
) -> Tensor:
    """Put every value back where its switch says (Zeiler & Fergus 2014, section 2.1: unpooling).

    Gather form: each output element is written once, so the result is the same on every run and
    device.

    Args:
        y, switches: [N,C,OH,OW], as :func:`~zfcuda.ops.max_pool2d` returns them.
        kernel_size, stride, padding, dilation: of the pooling to undo.
        output_size: (H, W), the size of what was pooled; default ``(OH - 1) * stride - 2 * padding
            + dilation * (kernel_size - 1) + 1``, which is the smallest one. Where windows were
            padded, switches may point past it: give the size then.
        relu: rectify the unpooled signal (the relu of the sum).
        overlap: ``"sum"`` adds what several windows send to one place (the transpose of pooling),
            ``"overwrite"`` lets the last window in raster order win.
        check: on CUDA, raise for a switch that is no tap number or points off the output (costs a
            synchronisation); the CPU kernel always does. Unchecked, such a switch unpools to
            nothing.

    Returns:
        [N,C,H,W] in ``y``'s dtype.

    Raises:
        ValueError: shapes that do not fit each other or the window, an unknown overlap rule,
            switches that are no taps, or point off an output of this size.
        TypeError: a switch dtype other than the one :func:`~zfcuda.ops.max_pool2d` gives.
    """
    if overlap not in ("sum", "overwrite"):
        raise ValueError(f"overlap must be 'sum' or 'overwrite', got {overlap!r}")
    window = window_of(kernel_size, stride, padding, dilation)
    if output_size is None:
        output_size = [
            (length - 1) * s - 2 * p + d * (k - 1) + 1
            for length, k, s, p, d in zip(y.shape[-2:], *window, strict=True)
        ]
    size = pair(output_size[-2:], "output_size")
    return kernels.max_unpool2d(y, switches, *window, size, relu, overlap == "overwrite", check)


define("max_unpool2d", lambda y, *settings: empty(y, (*y.shape[:2], *settings[5])))
define(
    "max_unpool2d_backward",
    lambda grad, switches, *settings: empty(switches, switches.shape, grad.dtype),
)


def _max_unpool2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, switches, kernel_size, stride, padding, dilation, _, relu, overwrite, _ = inputs
    ctx.save_for_backward(switches, *((output,) if relu else ()))
    ctx.window = (kernel_size, stride, padding, dilation)
    ctx.overwrite = overwrite


def _max_unpool2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    switches, *out = ctx.saved_tensors
    grad_y = kernels.max_unpool2d_backward(
        grad, switches, out[0] if out else None, *ctx.window, ctx.overwrite
    )
    return (grad_y, *(None,) * 9)


def _max_unpool2d_tangent(args: tuple[Any, ...], tangents: Tangents, output: Tensor) -> Tangents:
    _, switches, *window, size, relu, overwrite, _ = args
    tangent = kernels.max_unpool2d(tangents[0], switches, *window, size, False, overwrite, False)
    return (torch.where(output <= 0, 0, tangent) if relu else tangent,)


derivative("max_unpool2d", _max_unpool2d_backward, _max_unpool2d_setup, _max_unpool2d_tangent)
