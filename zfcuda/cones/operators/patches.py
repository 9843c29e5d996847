"""What an occluder changes on a map, position by position, and the windows that steps make of it.

Every position has, on each map, the rectangle that it can change. What lies in it is held as a
*patch*; everything around it is the base pass's. A step gathers the windows it needs from patch and
base together, works on a batch of them, and leaves new patches. Convolutions want windows of one
size, so positions are bucketed by the size of their rectangles, and small buckets join larger ones
where the few pixels recomputed in vain cost less than another call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.rectangles import Boxes, SlidingWindow, areas, clip
from zfcuda.cones.profile import DeviceProfile
from zfcuda.graph.rules import Pair
from zfcuda.ops.windows import as_maps, window_table

_BUFFERS = 128  # that the window ops take
_Made = TypeVar("_Made")


class Tables:
    """What a batch of positions needs besides pixels: where patches lie, tables of windows on the
    device. It depends on boxes alone: made on the way of the first images through the steps, it is
    there for all further ones that have the same positions, as far as it is ``kept``."""

    def __init__(self, profile: DeviceProfile, kept: Kept | None = None) -> None:
        self.profile = profile
        self._kept = kept
        self._made: dict[Hashable, object] = {}

    def once(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """What is known by a key, of a step and of what in it; else made."""
        if key in self._made:
            return self._made[key]  # type: ignore[return-value]
        made = make()
        if self._kept is not None and self._kept.takes(made):
            self._made[key] = made
        return made


class Kept:
    """The tables of batches of positions, as many as take ``room``, in bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._of: dict[Hashable, Tables] = {}

    def of(self, batch: Hashable, profile: DeviceProfile) -> Tables:
        """Those of a batch, which is known by a key."""
        return self._of.setdefault(batch, Tables(profile, self))

    def takes(self, made: object) -> bool:
        """Whether there is room for it. Where there was none for one, there is none for any after
        it, which lie where that one says."""
        self.room -= _bytes_of(made)
        return self.room >= 0


_OBJECT = 512  # bytes that a tensor takes besides its numbers, and up to which they are rounded


def _bytes_of(made: object) -> int:
    """What tables take. A function that works with some is a ``partial``, which shows them."""
    if isinstance(made, Tensor | np.ndarray):
        return made.nbytes + _OBJECT
    if isinstance(made, list | tuple):
        return sum(map(_bytes_of, made))
    if isinstance(made, partial):
        return sum(map(_bytes_of, (*made.args, *made.keywords.values())))
    if is_dataclass(made):
        return sum(map(_bytes_of, vars(made).values()))
    if made is None or isinstance(made, int | float | np.number):
        return 0
    raise TypeError(f"nobody can tell how much {made!r} takes")


@dataclass(frozen=True, eq=False)
class Patches:
    """What P positions have on one map.

    Attributes:
        buffers: pixels [n,C] each.
        rows: int64 [P,8], the first columns of the window ops' table: image, buffer, offset, pitch,
            and the box that the patch covers.
        tables: of these positions.
        apart: whether no two positions share pixels of a buffer, and each has them row after row.
    """

    buffers: list[Tensor]
    rows: np.ndarray
    tables: Tables
    apart: bool = True

    @property
    def boxes(self) -> Boxes:
        return self.rows[:, 4:]


def occluders(fill: Tensor, boxes: Boxes, images: np.ndarray, tables: Tables) -> Patches:
    """The input's patches: crops of the image ``fill`` [1,H,W,C], in place; ``images`` int64 [P]
    tells which image of the base pass each lies on."""
    width = fill.shape[2]
    rows = np.zeros((len(boxes), 8), np.int64)
    rows[:, 0] = images
    rows[:, 2] = boxes[:, 0] * width + boxes[:, 1]
    rows[:, 3] = width
    rows[:, 4:] = boxes
    return Patches([fill.flatten(0, 2)], rows, tables, apart=False)


def full(source: Patches, base: Tensor, key: Hashable) -> Tensor:
    """Every position's whole maps [P,C,H,W], channels_last; ``key`` of its tables."""
    _, height, width, channels = base.shape
    boxes = np.tile(np.array([0, 0, height, width], np.int64), (len(source.rows), 1))
    out = gathered([(source, base)], boxes, (key, "whole"))
    return as_maps(out.view(-1, height, width, channels))


@dataclass(frozen=True, eq=False)
class EqualWindows:
    """Some positions' windows of one size.

    Attributes:
        number: of these among the step's.
        members: [p], the positions.
        start: [p,2], the first places of what is made of them on its map.
        extent: rows and columns of a window.
        windows: where they are.
    """

    number: int
    members: np.ndarray
    start: np.ndarray
    extent: tuple[int, int]
    windows: WindowsAt


def on_equal_windows(
    source: Patches,
    base: Tensor,
    boxes: Boxes,
    window: SlidingWindow,
    shape: Sequence[int],
    work: int,
    function: Callable[[Tensor, EqualWindows], Tensor],
    key: Hashable,
    scale: Pair = (1, 1),
) -> Patches:
    """What a function makes of sliding windows, on batches of equal ones.

    Args:
        source, base: the patches below, and the maps [n,H,W,C] that they lie on.
        boxes: [P,4], what to make.
        shape: (C,H,W) of the maps that it is made for.
        work: multiply-adds for each of their pixels.
        function: of windows' pixels [p,C,h,w], channels_last, and of what they are; makes
            [p,C',h',w'] of them.
        key: of the step's tables.
        scale: rows and columns that are made for each place; patches' boxes are in these.
    """

    def planned() -> tuple[list[EqualWindows], np.ndarray]:
        bytes_each = base.shape[3] * base.element_size()
        groups = _equal(source, boxes, window, shape[1:], work, bytes_each, base.device)
        return groups, _rows_of(source, groups, window, scale)

    groups, rows = source.tables.once((key, "equal"), planned)
    buffers: list[Tensor] = []
    for group in groups:
        pixels = gathered_at([(source, base)], group.windows)
        maps = as_maps(pixels.view(len(group.members), *group.extent, -1))
        buffers.append(as_pixels(function(maps, group)))
    if len(buffers) > _BUFFERS:
        buffers = [torch.cat(buffers)]
    return Patches(buffers or [base.new_empty(0, shape[0])], rows, source.tables)


def _equal(
    source: Patches,
    boxes: Boxes,
    window: SlidingWindow,
    size: Sequence[int],
    work: int,
    bytes_each: int,
    device: torch.device,
) -> list[EqualWindows]:
    """The windows for ``boxes`` of a map of that size, in groups; ``bytes_each``: of a pixel."""
    stride, padding = np.array(window.stride), np.array(window.padding)
    reach = np.array(window.dilation) * (np.array(window.kernel) - 1) + 1
    profile = source.tables.profile
    groups: list[EqualWindows] = []
    for members, sides in buckets(boxes, profile.convolution_call / work):
        extent = (np.array(sides) - 1) * stride + reach
        count = max(1, profile.windows // (int(extent.prod()) * bytes_each))
        for begin in range(0, len(members), count):
            some = members[begin : begin + count]
            start = np.minimum(boxes[some, :2], np.array(size) - sides)
            corner = start * stride - padding
            inputs = np.concatenate([corner, corner + extent], 1)
            windows = windows_at([some_of(source, some)], inputs, device)
            groups.append(EqualWindows(len(groups), some, start, tuple(extent.tolist()), windows))
    return groups


def _rows_of(
    source: Patches, groups: Sequence[EqualWindows], window: SlidingWindow, scale: Pair
) -> np.ndarray:
    """Of what is made of the groups, one buffer of each, or one in all if there are too many."""
    reach = np.array(window.dilation) * (np.array(window.kernel) - 1) + 1
    rows = fresh_rows(source)
    begin = 0
    for group in groups:
        some, start = group.members, group.start
        made = (np.array(group.extent) - reach) // window.stride + 1
        size = made * scale
        joined = len(groups) > _BUFFERS
        rows[some, 1] = 0 if joined else group.number
        rows[some, 2] = (begin if joined else 0) + np.arange(len(some)) * size.prod()
        rows[some, 3] = size[1]
        rows[some, 4:] = np.concatenate([start * scale, (start + made) * scale], 1)
        begin += len(some) * int(size.prod())
    return rows


def on_the_map(patches: Patches, padding: Pair, size: Sequence[int]) -> Patches:
    """Patches on a map with so much more around it as those on the map of that size itself."""
    rows = patches.rows.copy()
    held = rows[:, 1] >= 0
    wide = rows[held, 4:] - np.tile(np.array(padding), 2)
    boxes = clip(wide, size)
    begun = boxes[:, :2] - wide[:, :2]
    rows[held, 2] += begun[:, 0] * rows[held, 3] + begun[:, 1]
    rows[held, 4:] = boxes
    return replace(patches, rows=rows, apart=bool((boxes == wide).all()))


def buckets(boxes: Boxes, call: float) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Positions that share a size: their indices and the size. Empty boxes are in none.

    Args:
        call: pixels that may be computed in vain to save one bucket.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    code = sizes[:, 0] << 32 | sizes[:, 1]
    unique, inverse, counts = np.unique(code, return_inverse=True, return_counts=True)
    size = np.stack([unique >> 32, unique & 0xFFFFFFFF], 1)
    label = np.arange(len(unique))
    alive = size.prod(1) > 0
    while alive.sum() > 1:
        common = np.maximum(size[:, None], size[None])
        vain = counts[:, None] * (common.prod(2) - size.prod(1)[:, None])
        vain = (vain + vain.T).astype(float)
        vain[~alive] = vain[:, ~alive] = np.inf
        np.fill_diagonal(vain, np.inf)
        i, j = np.unravel_index(vain.argmin(), vain.shape)
        if vain[i, j] > call:
            break
        size[i], counts[i], alive[j] = common[i, j], counts[i] + counts[j], False
        label[label == j] = i
    of = label[inverse]
    kept = np.flatnonzero(alive)
    return [(np.flatnonzero(of == i), (int(size[i, 0]), int(size[i, 1]))) for i in kept]


def fresh_rows(source: Patches) -> np.ndarray:
    """Of the same images as ``source``'s, without a buffer yet."""
    rows = np.zeros((len(source.rows), 8), np.int64)
    rows[:, 0] = source.rows[:, 0]
    rows[:, 1] = -1
    return rows


def some_of(source: Patches, members: np.ndarray) -> Patches:
    return replace(source, rows=source.rows[members])


def patches_at(out: Tensor, boxes: Boxes, source: Patches, key: Hashable) -> Patches:
    """Patches of just these boxes, one after another in ``out``, of the same images as
    ``source``'s; ``key`` of the step's tables."""

    def lying() -> np.ndarray:
        rows = fresh_rows(source)
        sizes = areas(boxes)
        rows[:, 1] = 0
        rows[:, 2] = np.cumsum(sizes) - sizes
        rows[:, 3] = boxes[:, 3] - boxes[:, 1]
        rows[:, 4:] = boxes
        return rows

    return Patches([out], source.tables.once((key, "rows"), lying), source.tables)


@dataclass(frozen=True, eq=False)
class WindowsAt:
    """Windows at some boxes, one after another.

    Attributes:
        tables: of them for each of some patches, as the window ops take it.
        pixels: that all of them have.
        largest: the most that one has.
    """

    tables: tuple[Tensor, ...]
    pixels: int
    largest: int


def windows_at(sources: Sequence[Patches], boxes: Boxes, device: torch.device) -> WindowsAt:
    """The windows at ``boxes`` [P,4] of maps with these patches."""
    sizes = areas(boxes)
    ends = np.cumsum(sizes)
    tables = tuple(window_table(source.rows, boxes, ends - sizes, device) for source in sources)
    return WindowsAt(tables, int(ends[-1]) if len(ends) else 0, int(sizes.max(initial=0)))


def gathered(operands: Sequence[tuple[Patches, Tensor]], boxes: Boxes, key: Hashable) -> Tensor:
    """The pixels [n,C] of the windows at ``boxes``, one after another, the operands' channels side
    by side; ``key`` of the step's tables."""
    sources = [source for source, _ in operands]
    device = operands[0][1].device
    windows = sources[0].tables.once((key, "at"), lambda: windows_at(sources, boxes, device))
    return gathered_at(operands, windows)


def gathered_at(
    operands: Sequence[tuple[Patches, Tensor]], windows: WindowsAt, outside: float = 0.0
) -> Tensor:
    """The same of windows that are known; ``outside``: what is off the map."""
    channels = sum(base.shape[3] for _, base in operands)
    out = operands[0][1].new_empty(windows.pixels, channels)
    at = 0
    for (source, base), table in zip(operands, windows.tables, strict=True):
        ops.gather_windows(base, source.buffers, table, out, windows.largest, at, outside)
        at += base.shape[3]
    return out


def covers(source: Patches, boxes: Boxes) -> bool:
    """Whether the patches reach as far as ``boxes``."""
    own = source.boxes
    inside = (own[:, :2] <= boxes[:, :2]).all(1) & (own[:, 2:] >= boxes[:, 2:]).all(1)
    return bool((inside | (areas(boxes) == 0)).all())


def as_row(pixels: Tensor) -> Tensor:
    """Pixels [n,C] as one row of maps [1,C,1,n]."""
    return as_maps(pixels[None, None])


def as_pixels(maps: Tensor) -> Tensor:
    """[n,C,h,w] as pixels [n*h*w,C]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
