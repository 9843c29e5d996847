"""Arguments as the schemas take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

IntPair = int | Sequence[int]


def pair(value: IntPair, name: str) -> list[int]:
    """``value`` for (height, width); as torch, a sequence of one goes for both.

    Raises:
        ValueError: it is something else, naming the argument.
    """
    both = list(value) if isinstance(value, Sequence) else [value, value]
    if len(both) == 1:
        both *= 2
    if len(both) != 2 or any(v is None or isinstance(v, float | str) for v in both):
        raise ValueError(f"{name} must be an int or a pair of ints, got {value!r}")
    return both


def check_tensor(value: Any, name: str) -> None:
    """Raise a TypeError unless ``value`` is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")


def window_of(
    kernel_size: IntPair, stride: IntPair | None, padding: IntPair, dilation: IntPair
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride (the kernel, if there is none, as in torch), padding and dilation as pairs."""
    kernel = pair(kernel_size, "kernel_size")
    step = kernel if stride is None or stride == [] else pair(stride, "stride")
    return kernel, step, pair(padding, "padding"), pair(dilation, "dilation")
