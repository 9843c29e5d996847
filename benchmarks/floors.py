"""What each op must move and compute at least, and how long that takes a named chip.

The only definition of a benchmark's bytes: every byte that has to come from or go to memory is
counted once, however often a kernel reads it. Instructions are those that no way of writing the op
can do without (a compare and two selects a tap of pooling, say), without index arithmetic. A floor
is what neither number lets a chip go below. It is no measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Row = Sequence[int]  # of ``windows``, as ops.gather_windows takes them


@dataclass(frozen=True)
class Demand:
    """What a call needs.

    Attributes:
        read, written: bytes.
        instructions: of single threads.
    """

    read: int
    written: int
    instructions: int = 0

    @property
    def bytes(self) -> int:
        return self.read + self.written


@dataclass(frozen=True)
class Chip:
    """Published figures, from NVIDIA's data sheets and architecture papers.

    Attributes:
        bandwidth: of its memory, bytes a second.
        multiprocessors: each issues an instruction for 128 threads a cycle.
        clock: boost, in Hz.
    """

    name: str
    arch: str
    bandwidth: float
    multiprocessors: int
    clock: float

    @property
    def issue(self) -> float:
        """Instructions of single threads a second."""
        return 128 * self.multiprocessors * self.clock

    def floor(self, demand: Demand) -> float:
        """Seconds."""
        return max(demand.bytes / self.bandwidth, demand.instructions / self.issue)

    def bound_by(self, demand: Demand) -> str:
        """``"bytes"`` or ``"instructions"``."""
        by_bytes = demand.bytes / self.bandwidth >= demand.instructions / self.issue
        return "bytes" if by_bytes else "instructions"


CHIPS = (
    Chip("A100 40 GB", "8.0", 1.555e12, 108, 1.410e9),
    Chip("A100 80 GB", "8.0", 2.039e12, 108, 1.410e9),
    Chip("RTX 3090", "8.6", 0.936e12, 82, 1.695e9),
    Chip("RTX 4090", "8.9", 1.008e12, 128, 2.520e9),
    Chip("L4", "8.9", 0.300e12, 58, 2.040e9),
    Chip("H100 SXM", "9.0", 3.350e12, 132, 1.980e9),
    Chip("H200", "9.0", 4.800e12, 132, 1.980e9),
    Chip("B200", "10.0", 8.000e12, 148, 1.965e9),
    Chip("RTX 5090", "12.0", 1.792e12, 170, 2.407e9),
)


# --- whole maps -----------------------------------------------------------------------------------


def pooled(size: int, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = True) -> int:
    """Windows along an axis, by torch's rule."""
    span = size + 2 * padding - kernel
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    return count - (ceil_mode and (count - 1) * stride >= size + padding)


def max_pool2d(
    shape: Sequence[int], kernel: int, stride: int, itemsize: int, ceil_mode: bool = True
) -> Demand:
    """``x`` in; ``y`` and a byte of switch an output out.

    Args:
        shape: of ``x``, [N, C, H, W].
        itemsize: bytes of an element.
    """
    n, c, height, width = shape
    outputs = n * c * math.prod(pooled(each, kernel, stride, 0, ceil_mode) for each in shape[2:])
    inputs = n * c * height * width
    converted = inputs + outputs if itemsize == 2 else 0
    work = 3 * kernel * kernel * outputs + converted
    return Demand(inputs * itemsize, outputs * (itemsize + 1), work)


def max_unpool2d(
    shape: Sequence[int], kernel: int, stride: int, itemsize: int, ceil_mode: bool = False
) -> Demand:
    """The signal and its switches in, a map of ``shape`` out; a compare and an addition for every
    window over an element."""
    n, c, height, width = shape
    inputs = n * c * math.prod(pooled(each, kernel, stride, 0, ceil_mode) for each in shape[2:])
    outputs = n * c * height * width
    work = 2 * kernel * kernel * inputs + (inputs + outputs if itemsize == 2 else 0)
    return Demand(inputs * (itemsize + 1), outputs * itemsize, work)


def local_response_norm(shape: Sequence[int], size: int, itemsize: int) -> Demand:
    """A square, ``size`` - 1 additions, a multiply-add, a product, and two special functions, of
    which a multiprocessor does 16 a cycle."""
    elements = math.prod(shape)
    work = elements * (size + 2 + 2 * 8 + (2 if itemsize == 2 else 0))
    return Demand(elements * itemsize, elements * itemsize, work)


def spatial_max(shape: Sequence[int], itemsize: int) -> Demand:
    """The maps in; of each map an element and an int64 place out. A compare and two selects an
    element."""
    maps, elements = math.prod(shape[:2]), math.prod(shape)
    work = elements * (4 if itemsize == 2 else 3)
    return Demand(elements * itemsize, maps * (itemsize + 8), work)


def occlude(shape: Sequence[int], positions: int, itemsize: int) -> Demand:
    """The images and their boxes in, a copy of them a position out; nothing is computed."""
    image = math.prod(shape) * itemsize
    return Demand(image + positions * 32, image * positions)


def warp_affine(shape: Sequence[int], maps: int, itemsize: int) -> Demand:
    """The images and their matrices in, a copy of them a map out.

    Two multiply-adds and two floors a pixel, three blends of two instructions an element.
    """
    n, c, height, width = shape
    image, pixels = math.prod(shape) * itemsize, n * maps * height * width
    work = pixels * (4 + 6 * c) + (5 * c * pixels if itemsize == 2 else 0)
    return Demand(image + maps * 48, image * maps, work)


# --- windows of maps under patches ----------------------------------------------------------------


@dataclass(frozen=True)
class _Touched:
    """Pixels that have to be read.

    Attributes:
        base: of the maps, each once.
        patches: of the patches.
        under: of the maps below those, each once.
    """

    base: int
    patches: int
    under: int


def _touched(
    rows: Sequence[Row], size: Sequence[int], needs: Callable[[int, int], tuple[int, int]]
) -> _Touched:
    """``size`` is the maps' [batch, height, width]; ``needs`` goes from a window's begin and end on
    an axis to the piece of the maps' axis that it is made of."""
    base, under = np.zeros(tuple(size), dtype=bool), np.zeros(tuple(size), dtype=bool)
    patches = 0
    for image, buffer, _, _, py0, px0, py1, px1, y0, x0, y1, x1, _ in rows:
        (top, bottom), (left, right) = needs(y0, y1), needs(x0, x1)
        top, left, bottom, right = (max(each, 0) for each in (top, left, bottom, right))
        wanted = np.zeros(tuple(size[1:]), dtype=bool)
        wanted[top:bottom, left:right] = True
        covered = np.zeros_like(wanted)
        if buffer >= 0:
            covered[max(py0, 0) : max(py1, 0), max(px0, 0) : max(px1, 0)] = True
        patches += int((wanted & covered).sum())
        under[image] |= wanted & covered
        base[image] |= wanted & ~covered
    return _Touched(int(base.sum()), patches, int(under.sum()))


def _pixels(rows: Sequence[Row]) -> int:
    return sum((row[10] - row[8]) * (row[11] - row[9]) for row in rows)


def gather_windows(
    rows: Sequence[Row], size: Sequence[int], channels: int, itemsize: int
) -> Demand:
    """The windows' pixels out; the maps' and the patches' pixels under them in, and the rows."""
    touched = _touched(rows, size, lambda begin, end: (begin, end))
    pixel = channels * itemsize
    read = (touched.base + touched.patches) * pixel + 104 * len(rows)
    return Demand(read, _pixels(rows) * pixel)


def pool_windows(
    rows: Sequence[Row], size: Sequence[int], channels: int, itemsize: int, kernel: int, stride: int
) -> Demand:
    """The pooled windows out; what their windows cover in. A compare and a select a tap."""

    def needs(begin: int, end: int) -> tuple[int, int]:
        return begin * stride, (end - 1) * stride + kernel

    touched, pixel = _touched(rows, size, needs), channels * itemsize
    outputs = _pixels(rows) * channels
    read = (touched.base + touched.patches) * pixel + 104 * len(rows)
    work = outputs * (2 * kernel * kernel + (1 if itemsize == 2 else 0))
    return Demand(read, outputs * itemsize, work)


def unpool_windows(
    rows: Sequence[Row], size: Sequence[int], channels: int, itemsize: int, kernel: int, stride: int
) -> Demand:
    """The unpooled windows out; patches over the windows that reach them in, with their switches (a
    byte each, of maps that may be shared). A compare and an addition a window over an element."""

    def needs(begin: int, end: int) -> tuple[int, int]:
        return -((kernel - 1 - begin) // stride), (end - 1) // stride + 1

    touched = _touched(rows, size, needs)
    outputs = _pixels(rows) * channels
    read = touched.patches * channels * itemsize + touched.under * channels + 104 * len(rows)
    return Demand(read, outputs * itemsize, 2 * outputs * -((-kernel // stride) ** 2))
