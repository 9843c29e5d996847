"""Rectangle algebra. Rectangles are int64 arrays [P,4] of (y0, x0, y1, x1), half open, in elements
of their map and clipped to it; an empty one is all zeros. Each function takes P of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zfcuda.graph.rules import Pair

Boxes = np.ndarray  # int64 [P,4]: y0, x0, y1, x1, half open
Interval = tuple[np.ndarray, np.ndarray]  # [P] each, half open


def is_empty(boxes: Boxes) -> np.ndarray:
    """bool [P]."""
    return (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])


def clip(boxes: Boxes, size: Sequence[int]) -> Boxes:
    """What of ``boxes`` lies on a map of that (height, width)."""
    limit = np.array([*size, *size], np.int64)
    inside = np.clip(np.asarray(boxes, np.int64).reshape(-1, 4), 0, limit)
    inside[is_empty(inside)] = 0
    return inside


def join_boxes(*boxes: Boxes) -> Boxes:
    """The smallest boxes around all that are given for each of the P; empty ones do not count."""
    joined = boxes[0].copy()
    for other in boxes[1:]:
        none, new = is_empty(joined), ~is_empty(other)
        joined[none] = other[none]
        both = ~none & new
        joined[both, :2] = np.minimum(joined[both, :2], other[both, :2])
        joined[both, 2:] = np.maximum(joined[both, 2:], other[both, 2:])
    joined[is_empty(joined)] = 0
    return joined


def areas(boxes: Boxes) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def boxes_of(rows: Interval, columns: Interval) -> Boxes:
    return np.stack([rows[0], columns[0], rows[1], columns[1]], 1).astype(np.int64)


def hull(first: np.ndarray, last: np.ndarray, real: np.ndarray, axis: int = 0) -> Interval:
    """From the first to behind the last over an axis of closed intervals; those that are not real
    do not count, and nothing is where none is."""
    far = np.iinfo(np.int64).max
    return np.where(real, first, far).min(axis), np.where(real, last + 1, 0).max(axis)


def pixels_in(boxes: Boxes) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Of all pixels in these boxes, one box after another: the box's number, row and column."""
    sizes = areas(boxes)
    which = np.repeat(np.arange(len(boxes)), sizes)
    place = np.arange(len(which)) - (np.cumsum(sizes) - sizes)[which]
    row, column = np.divmod(place, (boxes[:, 3] - boxes[:, 1])[which])
    return which, (boxes[which, 0] + row, boxes[which, 1] + column)


# --- windows --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SlidingWindow:
    """How windows lie on a map; pairs are (height, width)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair = (1, 1)

    def reached(self, boxes: Boxes, in_size: Sequence[int], out_size: Sequence[int]) -> Boxes:
        """The windows that have a tap in these boxes: from the first to the last."""
        rows, columns = (
            self._reached(*boxes[:, axis::2].T, out_size[axis], axis) for axis in (0, 1)
        )
        return boxes_of(rows, columns)

    def needed(self, boxes: Boxes, in_size: Sequence[int], out_size: Sequence[int]) -> Boxes:
        """The taps on the map of the windows in these boxes: from the first to the last."""
        rows, columns = (self._needed(*boxes[:, axis::2].T, in_size[axis], axis) for axis in (0, 1))
        return boxes_of(rows, columns)

    def _shifts(self, axis: int) -> np.ndarray:
        # One tap of the window at o is at o * stride - pad + tap * dilation.
        return self.padding[axis] - np.arange(self.kernel[axis])[:, None] * self.dilation[axis]

    def _reached(self, start: np.ndarray, stop: np.ndarray, size: int, axis: int) -> Interval:
        shift, stride = self._shifts(axis), self.stride[axis]
        first = np.maximum(-((-start - shift) // stride), 0)
        last = np.minimum((stop - 1 + shift) // stride, size - 1)
        return hull(first, last, first <= last)

    def _needed(self, start: np.ndarray, stop: np.ndarray, size: int, axis: int) -> Interval:
        shift, stride = self._shifts(axis), self.stride[axis]
        first = np.maximum(-((-shift) // stride), start)
        last = np.minimum((size - 1 + shift) // stride, stop - 1)
        return hull(first * stride - shift, last * stride - shift, first <= last)

    def growth(self, sides: np.ndarray) -> float:
        """Pixels read over pixels made, in rectangles of these sides [P,2]."""
        sides = np.maximum(sides.mean(0), 1)
        return float((((sides - 1) * self.stride + self.kernel) / sides).prod())

    def field(self, below: ReceptiveField) -> ReceptiveField:
        """What windows see over units that see ``below``."""
        axes = zip(
            below.size, below.stride, below.start,
            self.kernel, self.stride, self.padding, self.dilation,
            strict=True,
        )  # fmt: skip
        one_by_one = [
            (size + (kernel - 1) * spread * step, step * stride, start - padding * step)
            for size, step, start, kernel, stride, padding, spread in axes
        ]
        return ReceptiveField(*zip(*one_by_one, strict=True))

    def mirrored_field(self, below: ReceptiveField) -> ReceptiveField | None:
        """Bounds of what is seen by what windows over it would be transposed to: of a stride's rows
        some see a pixel less than others. None where that would not be evenly spaced."""
        if any(have % stride for have, stride in zip(below.stride, self.stride, strict=True)):
            return None
        step = np.array(below.stride) // self.stride
        reach = (np.array(self.kernel) - 1) * self.dilation
        size = below.size + reach * step
        start = below.start + (np.array(self.padding) - reach) * step
        return ReceptiveField(*(tuple(pair.tolist()) for pair in (size, step, start)))

    def __str__(self) -> str:
        """Stride, padding and dilation, where they are not the usual ones."""
        parts = (
            ("stride", self.stride, (1, 1)),
            ("pad", self.padding, (0, 0)),
            ("dilation", self.dilation, (1, 1)),
        )
        return "".join(f", {name} {_short(got)}" for name, got, usual in parts if got != usual)


def _short(pair: Pair) -> str:
    return str(pair[0]) if pair[0] == pair[1] else product_of(pair)


def product_of(sizes: object) -> str:
    """As people write it: 3×7×7."""
    return "×".join(str(int(size)) for size in sizes)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a layer see, in pixels of the input; pairs are (vertical, horizontal).

    The unit in row r and column c sees the pixels from `start + (r, c) * stride` on, `size` of
    them, as far as they lie on the image.

    Attributes:
        size: extent of what one unit sees, had the image no edge.
        stride: how far apart neighbouring units' fields are.
        start: first pixel of the first unit's field; negative where padding is seen.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the first unit's field; the first pixel's own centre is at 0.5."""
        return self.start[0] + self.size[0] / 2, self.start[1] + self.size[1] / 2

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """What one unit sees: (y0, x0, y1, x1), half open, not clipped to the image."""
        y0 = self.start[0] + row * self.stride[0]
        x0 = self.start[1] + column * self.stride[1]
        return y0, x0, y0 + self.size[0], x0 + self.size[1]
