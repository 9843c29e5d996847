"""Arguments as the schemas take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

IntPair = int | Sequence[int]
_NO_INTS = (str, float, np.inexact, np.bool_)


def pair(value: IntPair, name: str) -> list[int]:
    """``value`` for (height, width); as torch, a sequence of one goes for both.

    Raises:
        ValueError: it is something else, naming the argument.
    """
    if type(value) is int:  # the usual case, which every call of an op meets several times
        return [value, value]
    both = list(value) if isinstance(value, Sequence) else [value, value]
    if len(both) == 1:
        both *= 2
    if len(both) != 2 or any(v is None or isinstance(v, _NO_INTS) for v in both):
        raise ValueError(f"{name} must be an int or a pair of ints, got {value!r}")
    return [int(v) if isinstance(v, np.integer) else v for v in both]


def check_tensor(value: Any, name: str) -> None:
    """Raise a TypeError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def window_of(
    kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride (the kernel, if there is none, as in torch), padding and dilation as pairs."""
    kernel = pair(kernel_size, "kernel_size")
    none = stride is None or (isinstance(stride, Sequence) and not stride)
    step = kernel if none else pair(stride, "stride")
    return kernel, step, pair(padding, "padding"), pair(dilation, "dilation")
