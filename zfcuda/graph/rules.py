"""The node kinds that cones understand: what each does to the rectangle that it is given.

A rule describes one call of a traced model (:mod:`zfcuda.graph`) as far as geometry and arithmetic
need it. Weights are the model's own tensors, not copies. Sizes are pairs (height, width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = [
    "Affine",
    "AvgPool",
    "Binary",
    "Concat",
    "Conv",
    "Identity",
    "Input",
    "Lrn",
    "MaxPool",
    "Opaque",
    "Pair",
    "Pixelwise",
    "Pointwise",
    "Rule",
    "Shape",
]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Rule:
    """What one call of a model does."""


@dataclass(frozen=True)
class Input(Rule):
    """The images."""


@dataclass(frozen=True, eq=False)
class Conv(Rule):
    """2-d convolution with zero padding, the same on both sides."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @property
    def kernel(self) -> Pair:
        return (self.weight.shape[2], self.weight.shape[3])


@dataclass(frozen=True)
class MaxPool(Rule):
    """Max-pooling; ``relu``: of the rectified map (:class:`zfcuda.nn.MaxPool2d`)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil_mode: bool
    relu: bool = False


@dataclass(frozen=True)
class AvgPool(Rule):
    """Average pooling; ``divisor``: what sums are divided by instead of the number of elements."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None


@dataclass(frozen=True, eq=False)
class Affine(Rule):
    """``x * scale + shift``, both [C]: batch norm in eval mode, numbers, per-channel parameters."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Pointwise(Rule):
    """Each element by itself; ``function`` is out of place and takes tensors of any shape whose
    dimension 1 is the channels."""

    name: str
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Pixelwise(Rule):
    """Each pixel by itself, all its channels together; ``function`` takes [n,C,h,w] of any h and w
    to [n,C',h,w] (channel shuffles and slices, normalisation over channels)."""

    name: str
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lrn(Rule):
    """Contrast normalisation across channels, as ``torch.nn.LocalResponseNorm``."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class Concat(Rule):
    """Maps one behind the other, along the channels."""


@dataclass(frozen=True, eq=False)
class Binary(Rule):
    """Two maps of one shape, element by element; ``function`` is out of place."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def weight(self) -> float:
        """What a sum or difference multiplies its second map with: ``torch.add(a, b, alpha=2)``."""
        alpha = getattr(self.function, "keywords", {}).get("alpha", 1)
        return -alpha if self.name == "sub" else alpha


@dataclass(frozen=True)
class Identity(Rule):
    """The value as it is."""


@dataclass(frozen=True)
class Shape(Rule):
    """Not a tensor, and dependent on the shape of its inputs only, never on their values."""


@dataclass(frozen=True)
class Opaque(Rule):
    """Anything else: the barrier, from which on everything may depend on everything."""
