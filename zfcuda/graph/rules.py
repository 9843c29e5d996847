"""What a call of a model does: the kinds of rule that cones understand.

A rule says what the call does to the rectangle that it is given, as far as geometry and arithmetic
need it. Weights are the model's own tensors, not copies. Sizes are pairs (height, width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class TransposedConv(Rule):
    """2-d transposed convolution: a pixel in row i adds to the rows i * stride - padding + tap *
    dilation. ``weight`` [C,C'/groups,kh,kw] takes C maps to C'; ``output_padding`` more rows and
    columns at the end."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    padding: Pair
    output_padding: Pair
    dilation: Pair
    groups: int

    @property
    def kernel(self) -> Pair:
        return (self.weight.shape[2], self.weight.shape[3])

    @property
    def channels(self) -> int:
        """Of its value."""
        return self.weight.shape[1] * self.groups


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
class Switches(Rule):
    """The numbers of the taps that win under max-pooling whose windows do not overlap, as maps;
    ``relu``: of the rectified map."""

    kernel: Pair
    stride: Pair
    ceil_mode: bool
    relu: bool


@dataclass(frozen=True)
class Unpool(Rule):
    """Each number where its switch says, and zeros elsewhere; takes switches and maps, in this
    order, of one size."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class AvgPool(Rule):
    """Average pooling; ``divisor``: what sums are divided by instead of the number of elements."""

    kernel: Pair
    stride: Pair
    padding: Pair
    ceil_mode: bool
    count_include_pad: bool
    divisor: int | None


@dataclass(frozen=True)
class GlobalPool(Rule):
    """One number of each whole map: maps [n,C,1,1], or vectors [n,C] if not ``keepdim``.

    Attributes:
        reduce: "mean", "sum", "max", "min" or "logsumexp".
        size: of the maps.
    """

    reduce: str
    size: Pair
    keepdim: bool


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


@dataclass(frozen=True, eq=False)
class Moved:
    """Some maps, whose elements are copies of elements below.

    Attributes:
        channels: int64 [m], which maps.
        rows, columns: int64 [h], [w], the row that each row is from, and the column; -1 for none.
        row_phases, column_phases: int64 [h], [w], the first two indices to ``sources`` there.
        sources: int64 [p,q,m], which maps the elements are from.
    """

    channels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    row_phases: np.ndarray
    column_phases: np.ndarray
    sources: np.ndarray

    @property
    def phases(self) -> int:
        return self.sources.shape[0] * self.sources.shape[1]


@dataclass(frozen=True, eq=False)
class Rearrangement(Rule):
    """Each element is a copy of one below, or ``fill``: padding of every kind, cropping, strides,
    flipping, rolling, nearest resampling, pixel shuffles, space to depth.

    Attributes:
        parts: together all maps, each once.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    parts: tuple[Moved, ...]
    fill: float


@dataclass(frozen=True, eq=False)
class Taps:
    """What the numbers along an axis are weighted sums of.

    Attributes:
        places: int64 [n,T], which numbers of the axis below; -1 for none.
        weights: float64 [n,T]; what is taken with weight zero is read, too.
        size: of the axis below.
    """

    places: np.ndarray
    weights: np.ndarray
    size: int

    @cached_property
    def still(self) -> bool:
        """Whether every number is the one below it."""
        one = self.places.shape == (self.size, 1) and bool((self.weights == 1).all())
        return one and bool((self.places[:, 0] == np.arange(self.size)).all())

    @cached_property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """The first and the last number below of each [n]; -1 as the last where there is none."""
        far = np.iinfo(np.int64).max
        return np.where(self.places < 0, far, self.places).min(1), self.places.max(1)

    @cached_property
    def transposed(self) -> Taps:
        """What goes back to each number below."""
        above, tap = np.nonzero(self.places >= 0)
        below = self.places[above, tap]
        order = np.lexsort((above, below))
        above, tap, below = above[order], tap[order], below[order]
        counts = np.bincount(below, minlength=self.size)
        turn = np.arange(len(below)) - (np.cumsum(counts) - counts)[below]
        places = np.full((self.size, max(1, counts.max(initial=0))), -1)
        weights = np.zeros(places.shape)
        places[below, turn], weights[below, turn] = above, self.weights[above, tap]
        return Taps(places, weights, len(self.places))


@dataclass(frozen=True, eq=False)
class Resampling(Rule):
    """Each row is a weighted sum of rows, and each column of columns: linear and cubic resampling,
    with or without antialiasing, averages over adaptive windows."""

    name: str
    function: Callable[[Tensor], Tensor]
    rows: Taps
    columns: Taps


@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(Rule):
    """The largest number of each window, where windows are not alike. What weights the taps have
    does not matter."""

    function: Callable[[Tensor], Tensor]
    rows: Taps
    columns: Taps


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
    """Two maps of one size, element by element; one may have a single channel, which then goes with
    each of the other's. ``function`` is out of place."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]

    @property
    def weight(self) -> float:
        """What a sum or difference multiplies its second map with: ``torch.add(a, b, alpha=2)``."""
        alpha = getattr(self.function, "keywords", {}).get("alpha", 1)
        return -alpha if self.name == "sub" else alpha


@dataclass(frozen=True)
class Fixed(Rule):
    """Maps that are the same whatever the images show: parameters of a position, coordinates,
    masks. The node takes the images, to be expanded over as many, or other fixed maps."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Identity(Rule):
    """The value as it is."""


@dataclass(frozen=True)
class Shape(Rule):
    """Not a tensor, and dependent on the shape of its inputs only, never on their values."""


@dataclass(frozen=True)
class Opaque(Rule):
    """Anything else: the barrier, from which on everything may depend on everything."""
