"""Calls on zfcuda's kernels, for passes without gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.interception.batch_norm import fixed_batch_norm
from zfcuda.interception.mode import Call, Interception, every_spelling


def fast_forward(measure: bool = False) -> Interception:
    """For passes under ``no_grad``: max-pooling and contrast normalisation run on zfcuda's
    kernels."""
    calls = every_spelling(
        ("max_pool2d", _max_pool),
        ("local_response_norm", contrast_norm),
        ("batch_norm", fixed_batch_norm),
    )
    # torch.batch_norm orders its arguments differently; models reach it through F.batch_norm.
    del calls[torch.batch_norm], calls[torch.ops.aten.batch_norm]
    return Interception(calls, measure)


def ours_takes(x: Tensor) -> bool:
    """Whether our kernels do: a batch of maps, of a dtype that they are compiled for."""
    floats = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    return x.dim() == 4 and x.dtype in floats


def contrast_norm(call: Call, x: Tensor, *constants: Any, **named: Any) -> Tensor:
    """A call of local response normalisation, on our kernel where that takes ``x``."""
    return ops.local_response_norm(x, *constants, **named) if ours_takes(x) else call(x)


def _max_pool(  # type: ignore[no-untyped-def]
    call,
    x,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode=False,
    return_indices=False,
) -> Any:
    if return_indices or not ours_takes(x):
        return call(x)
    return ops.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)[0]
