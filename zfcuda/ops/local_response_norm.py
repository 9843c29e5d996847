"""Contrast normalisation across channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from zfcuda.ops.library import Tangents, define, derivative, empty, kernels


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Contrast normalisation across channels, ``x / (k + alpha / size * sum of squares) ** beta``.

    As ``torch.nn.functional.local_response_norm`` (alpha is divided by size; the window is ``size``
    channels, ``size // 2`` of them below), over x [N,C,H,W].

    Raises:
        ValueError: wrong rank or a size below 1.
        TypeError: a dtype that is not floating point.
    """
    return kernels.local_response_norm(x, size, alpha, beta, k)


define("local_response_norm", lambda x, *constants: empty(x, x.shape))
define("local_response_norm_backward", lambda grad, x, *constants: empty(x, x.shape))


def _lrn_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _lrn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    grad_x = kernels.local_response_norm_backward(grad, x, *ctx.constants)
    return grad_x, None, None, None, None


def _refuse_forward_over_reverse(grad: Tensor) -> None:
    """Backward has kept x without its tangent, on which this gradient's own would depend."""
    if forward_ad._current_level >= 0:
        raise RuntimeError(
            "zfcuda::local_response_norm_backward has no derivative: zfcuda's ops are "
            "differentiable once; call backward outside of forward-mode differentiation"
        )


def _lrn_tangent(args: tuple[Any, ...], tangents: Tangents, output: Tensor) -> Tangents:
    x, size, alpha, beta, k = args
    wide = torch.promote_types(x.dtype, torch.float32)
    v, dv = x.to(wide), tangents[0].to(wide)

    def around(values: Tensor) -> Tensor:
        padded = F.pad(values, (0, 0, 0, 0, size // 2, (size - 1) // 2))
        return sum(padded[:, i : i + values.shape[1]] for i in range(size))

    if output.requires_grad:
        output.register_hook(_refuse_forward_over_reverse)
    scale = k + alpha / size * around(v * v)
    shared = 2 * alpha / size * beta * v * around(v * dv) / scale
    return (((dv - shared) / scale**beta).to(x.dtype),)


derivative("local_response_norm", _lrn_backward, _lrn_setup, _lrn_tangent)
