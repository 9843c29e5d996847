"""How far images are turned, moved or scaled, as the user may say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda.inference.checks import plain

Values = Sequence[float] | Tensor | None


def numbers(values: Any, name: str, pairs: bool = False) -> Tensor:
    """float64 [M], or [M,2] with ``pairs`` (a plain number v is then (v, 0)).

    Raises:
        TypeError: no sequence of numbers.
        ValueError: an empty one, of the wrong shape, or with numbers that are not finite.
    """
    try:
        given = values if isinstance(values, Tensor) else list(values)
        found = plain(torch.as_tensor(given, dtype=torch.float64)).cpu()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from error
    if pairs and found.dim() == 1:
        found = torch.stack([found, torch.zeros_like(found)], dim=1)
    valid = found.shape[1:] == ((2,) if pairs else ()) and found.dim() > 0
    if not valid or len(found) == 0 or not bool(found.isfinite().all()):
        wanted = "finite numbers or pairs (down, right)" if pairs else "finite numbers"
        raise ValueError(f"{name} must be a non-empty sequence of {wanted}, got {values!r}")
    return found
