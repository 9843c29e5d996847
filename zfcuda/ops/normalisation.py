"""Contrast normalisation across channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zfcuda.ops.library import empty, kernels, no_derivative


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


@torch.library.register_fake("zfcuda::local_response_norm")
def _(x, size, alpha, beta, k):
    return empty(x, x.shape)


@torch.library.register_fake("zfcuda::local_response_norm_backward")
def _(grad, x, size, alpha, beta, k):
    return empty(x, x.shape)


def _lrn_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _lrn_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    grad_x = kernels.local_response_norm_backward(grad, x, *ctx.constants)
    return grad_x, None, None, None, None


torch.library.register_autograd(
    "zfcuda::local_response_norm", _lrn_backward, setup_context=_lrn_setup
)
no_derivative("local_response_norm_backward")
