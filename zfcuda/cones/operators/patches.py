"""What an occluder changes on a map, position by position, and the windows that steps make of it.

Every position has, on each map, the rectangle that it can change. What lies in it is held as a
*patch*; everything around it is the base pass's. A step gathers the windows it needs from patch and
base together, works on a batch of them, and leaves new patches. Convolutions want windows of one
size, so positions are bucketed by the size of their rectangles, and small buckets join larger ones
where the few pixels recomputed in vain cost less than another call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.rectangles import Boxes, SlidingWindow, areas, clip
from zfcuda.graph.rules import Pair
from zfcuda.ops.windows import as_maps, window_table

# Windows gathered for one convolution call, bytes: they should still be in the cache when it
# reads them.
_GATHERED = 2**23
_BUFFERS = 128  # that the window ops take
# Multiply-adds that one more convolution call costs (its setup, and its share of the weights read
# again).
_CALL = 100_000_000


@dataclass(frozen=True, eq=False)
class Patches:
    """What P positions have on one map.

    Attributes:
        buffers: pixels [n,C] each.
        rows: int64 [P,8], the first columns of the window ops' table: image, buffer, offset, pitch,
            and the box that the patch covers.
        apart: whether no two positions share pixels of a buffer, and each has them row after row.
    """

    buffers: list[Tensor]
    rows: np.ndarray
    apart: bool = True

    @property
    def boxes(self) -> Boxes:
        return self.rows[:, 4:]


def occluders(fill: Tensor, boxes: Boxes, images: np.ndarray) -> Patches:
    """The input's patches: crops of the image ``fill`` [1,H,W,C], in place; ``images`` int64 [P]
    tells which image of the base pass each lies on."""
    width = fill.shape[2]
    rows = np.zeros((len(boxes), 8), np.int64)
    rows[:, 0] = images
    rows[:, 2] = boxes[:, 0] * width + boxes[:, 1]
    rows[:, 3] = width
    rows[:, 4:] = boxes
    return Patches([fill.flatten(0, 2)], rows, apart=False)


def full(source: Patches, base: Tensor) -> Tensor:
    """Every position's whole maps [P,C,H,W], channels_last."""
    _, height, width, channels = base.shape
    boxes = np.tile(np.array([0, 0, height, width], np.int64), (len(source.rows), 1))
    out = gathered([(source, base)], boxes)
    return as_maps(out.view(-1, height, width, channels))


def on_equal_windows(
    source: Patches,
    base: Tensor,
    boxes: Boxes,
    window: SlidingWindow,
    shape: Sequence[int],
    work: int,
    function: Callable[[Tensor, np.ndarray], Tensor],
    scale: Pair = (1, 1),
) -> Patches:
    """What a function makes of sliding windows, on batches of equal ones.

    Args:
        source, base: the patches below, and the maps [n,H,W,C] that they lie on.
        boxes: [P,4], what to make.
        shape: (C,H,W) of the maps that it is made for.
        work: multiply-adds for each of their pixels.
        function: of windows' pixels [p,C,h,w], channels_last, and of the places [p,2] of what is
            made of them on its map; makes [p,C',h',w'] of them.
        scale: rows and columns that are made for each place; patches' boxes are in these.
    """
    kernel, stride, padding = (
        np.array(window.kernel),
        np.array(window.stride),
        np.array(window.padding),
    )
    reach = np.array(window.dilation) * (kernel - 1) + 1
    channels, height, width = shape
    rows = fresh_rows(source)
    buffers: list[Tensor] = []
    for members, size in buckets(boxes, _CALL / work):
        extent = (np.array(size) - 1) * stride + reach
        bytes_each = int(extent.prod()) * base.shape[3] * base.element_size()
        count = max(1, _GATHERED // bytes_each)
        for begin in range(0, len(members), count):
            some = members[begin : begin + count]
            start = np.minimum(boxes[some, :2], np.array([height, width]) - size)
            corner = start * stride - padding
            inputs = np.concatenate([corner, corner + extent], 1)
            windows = gathered([(some_of(source, some), base)], inputs)
            y = function(as_maps(windows.view(len(some), *extent.tolist(), -1)), start)
            rows[some, 1] = len(buffers)
            rows[some, 2] = np.arange(len(some)) * (size[0] * scale[0] * size[1] * scale[1])
            rows[some, 3] = size[1] * scale[1]
            rows[some, 4:] = np.concatenate([start * scale, (start + size) * scale], 1)
            buffers.append(as_pixels(y))
    return few(Patches(buffers or [base.new_empty(0, channels)], rows))


def on_the_map(patches: Patches, padding: Pair, size: Sequence[int]) -> Patches:
    """Patches on a map with so much more around it as those on the map of that size itself."""
    rows = patches.rows.copy()
    held = rows[:, 1] >= 0
    wide = rows[held, 4:] - np.tile(np.array(padding), 2)
    boxes = clip(wide, size)
    begun = boxes[:, :2] - wide[:, :2]
    rows[held, 2] += begun[:, 0] * rows[held, 3] + begun[:, 1]
    rows[held, 4:] = boxes
    return Patches(patches.buffers, rows, apart=bool((boxes == wide).all()))


def few(patches: Patches) -> Patches:
    """The same in no more buffers than the window ops take."""
    if len(patches.buffers) <= _BUFFERS:
        return patches
    starts = np.cumsum([0, *map(len, patches.buffers)])
    rows = patches.rows.copy()
    held = rows[:, 1] >= 0
    rows[held, 2] += starts[rows[held, 1]]
    rows[held, 1] = 0
    return Patches([torch.cat(patches.buffers)], rows)


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
    return Patches(source.buffers, source.rows[members], source.apart)


def patches_at(out: Tensor, boxes: Boxes, source: Patches) -> Patches:
    """Patches of just these boxes, one after another in ``out``, of the same images as
    ``source``'s."""
    rows = fresh_rows(source)
    sizes = areas(boxes)
    rows[:, 1] = 0
    rows[:, 2] = np.cumsum(sizes) - sizes
    rows[:, 3] = boxes[:, 3] - boxes[:, 1]
    rows[:, 4:] = boxes
    return Patches([out], rows)


def room_at(
    sources: Sequence[np.ndarray], boxes: Boxes, channels: int, like: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], int]:
    """Room for windows at ``boxes``, one after another, and each source's table of them."""
    sizes = areas(boxes)
    ends = np.cumsum(sizes)
    out = like[0].new_empty(int(ends[-1]) if len(ends) else 0, channels)
    windows = [window_table(rows, boxes, ends - sizes, out.device) for rows in sources]
    return out, windows, int(sizes.max(initial=0))


def gathered(operands: Sequence[tuple[Patches, Tensor]], boxes: Boxes) -> Tensor:
    """The windows at ``boxes``, one after another, the operands' channels side by side."""
    channels = sum(base.shape[3] for _, base in operands)
    rows = [source.rows for source, _ in operands]
    out, tables, largest = room_at(rows, boxes, channels, [operands[0][1]])
    channel = 0
    for (source, base), windows in zip(operands, tables, strict=True):
        ops.gather_windows(base, source.buffers, windows, out, largest, channel)
        channel += base.shape[3]
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
