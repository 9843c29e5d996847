"""The compiled ops, and what every op's registration needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda import _load

_load.library()
kernels = torch.ops.zfcuda


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """What a kernel allocates: of ``like``'s device and layout, and its dtype if none is given."""
    channels_last = not like.is_contiguous() and like.is_contiguous(
        memory_format=torch.channels_last
    )
    return torch.empty(
        shape,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


def no_derivative(op: str, why: str = "zfcuda's ops are differentiable once") -> None:
    """Give ``op`` an autograd rule that says why it has no derivative."""

    def backward(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(f"zfcuda::{op} has no derivative: {why}")

    torch.library.register_autograd(f"zfcuda::{op}", backward)
