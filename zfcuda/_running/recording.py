"""Tensors as results hold them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zfcuda._running.checks import plain


def to_result(tensor: Tensor) -> Tensor:
    """As results hold it: on the CPU, 16-bit types widened to float32."""
    tensor = plain(tensor)
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return wide.detach().cpu()


def fill_setting(fill: Any, x: Tensor, with_image: bool) -> float | Tensor:
    """``fill`` as results record it: a float, one value per channel [C], or an image [C,H,W].

    Raises:
        TypeError: it is neither a number nor numbers.
        ValueError: its shape fits no image of ``x`` [N,C,H,W] (images of its own: ``with_image``).
    """
    try:
        value = plain(
            torch.as_tensor(fill, dtype=None if isinstance(fill, Tensor) else torch.float64)
        )
    except (TypeError, ValueError) as error:
        raise TypeError(f"fill must be a number or numbers, got {fill!r}") from error
    shapes = [(), tuple(x.shape[1:2]), *([tuple(x.shape[1:])] if with_image else [])]
    if tuple(value.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes[1:])
        raise ValueError(f"fill must be a number or of shape {wanted}, got {list(value.shape)}")
    return float(value) if value.dim() == 0 else to_result(value.detach().to(x.dtype)).clone()
