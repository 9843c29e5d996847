"""One number of each whole map: its mean, sum, largest, smallest, logarithm of summed exponentials.

No position reads its whole map. What lies outside of a rectangle are four parts: the rows above it,
the rows below it, and in its own rows what is left and what is right of it. What such parts come to
is worked out once, beside the base pass, in steps of some columns; a position puts together the
rows above and below, two parts for each of its own rows, and the rectangle. Nothing is subtracted,
so that no digit cancels, and a NaN or infinity counts where it lies and for nobody else.

All is kept in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    around,
    below,
    field,
    needed,
    patched,
    prepared,
    reached,
    reads,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent, finish
from zfcuda.cones.operators.patches import (
    Patches,
    WindowsAt,
    as_pixels,
    buckets,
    gathered_at,
    patches_at,
    some_of,
    windows_at,
)
from zfcuda.cones.operators.rectangles import Boxes, ReceptiveField, SlidingWindow, areas
from zfcuda.cones.operators.signals import Signal, Windows
from zfcuda.graph.nodes import Node, values_in
from zfcuda.graph.rules import GlobalPool, MaxPool, Pair, Pointwise
from zfcuda.ops.windows import as_maps, on_device

_BLOCK = 8  # columns
_CACHED = 2**20  # bytes of float64 at once: they should not leave the cache


def _window(rule: GlobalPool) -> SlidingWindow:
    return SlidingWindow(rule.size, rule.size, (0, 0))


@reached.of(GlobalPool)
def _reached(rule: GlobalPool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).reached(boxes, in_size, (1, 1))


@needed.of(GlobalPool)
def _needed(rule: GlobalPool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).needed(boxes, in_size, (1, 1))


@field.of(GlobalPool)
def _field(rule: GlobalPool, below: ReceptiveField) -> ReceptiveField:
    return _window(rule).field(below)


@reads.of(GlobalPool)
def _reads(rule: GlobalPool, sides: np.ndarray, changed: np.ndarray) -> float:
    rows, columns = changed.T
    return float((rows * np.minimum(columns + _BLOCK, rule.size[1])).mean())


@words.of(GlobalPool)
def _words(rule: GlobalPool, node: Node) -> Naming | None:
    kind = {"mean": "average pooling", "sum": "sum"}.get(rule.reduce)
    return kind and Naming(kind, "over the whole map", "spreading", "evenly")


# --- many numbers as one --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reduction:
    """A way to make one number of many.

    Attributes:
        over: numbers along a dimension or several, in float64.
        running: of float64 numbers along a dimension: at each place, of those up to there.
        nothing: what no numbers come to.
    """

    over: Callable[[Tensor, Any], Tensor]
    running: Callable[[Tensor, int], Tensor]
    nothing: float

    def before(self, x: Tensor, dim: int, out: Tensor) -> None:
        """Write at each place of a dimension, and at its end, what all before it come to."""
        out.narrow(dim, 0, 1).fill_(self.nothing)
        out.narrow(dim, 1, x.shape[dim]).copy_(self.running(x, dim))

    def after(self, x: Tensor, dim: int, out: Tensor) -> None:
        """Write at each place of a dimension, and at its end, what all from there on come to."""
        out.narrow(dim, x.shape[dim], 1).fill_(self.nothing)
        out.narrow(dim, 0, x.shape[dim]).copy_(self.running(x.flip(dim), dim).flip(dim))

    def over_pixels(self, rows: Tensor) -> Tensor:
        """Of each row of pixels [n,w,C]: float64 [n,C]."""
        found = rows.new_empty(len(rows), rows.shape[2], dtype=torch.float64)
        for some in _cached(len(rows), rows):
            found[some] = self.over(rows[some], 1)
        return found


_SUM = _Reduction(lambda x, dim: x.double().sum(dim), torch.cumsum, 0.0)
_REDUCTIONS = {
    "mean": _SUM,
    "sum": _SUM,
    "max": _Reduction(
        lambda x, dim: x.amax(dim).double(), lambda x, dim: x.cummax(dim).values, -torch.inf
    ),
    "min": _Reduction(
        lambda x, dim: x.amin(dim).double(), lambda x, dim: x.cummin(dim).values, torch.inf
    ),
    "logsumexp": _Reduction(
        lambda x, dim: x.double().logsumexp(dim), torch.logcumsumexp, -torch.inf
    ),
}


def _cached(count: int, like: Tensor) -> list[slice]:
    """So many rows, each as one of ``like``, in groups that fit the cache in float64."""
    most = _CACHED if like.device.type == "cpu" else 64 * _CACHED
    together = max(1, most // max(1, 8 * like[0].numel())) if count else 1
    return [slice(begin, begin + together) for begin in range(0, count, together)]


def _rounded(rule: GlobalPool, found: Tensor, like: Tensor) -> Tensor:
    """What whole maps came to, in their own type."""
    area = rule.size[0] * rule.size[1]
    return (found / area if rule.reduce == "mean" else found).to(like.dtype)


# --- going up -------------------------------------------------------------------------------------


@prepared.of(MaxPool)
def _of_the_whole_map(rule: MaxPool, step: Step) -> Step:
    """A maximum whose window is the whole map; its switch matters on the way down only."""
    size = values_in(step.node.args)[0].shape[1:]
    if rule.kernel != size or rule.padding != (0, 0):
        return step
    then = (Pointwise("relu", torch.relu), *step.then) if rule.relu else step.then
    return replace(step, rule=GlobalPool("max", size, True), then=then)


@whole.of(GlobalPool)
def _whole(rule: GlobalPool, step: Step, x: Tensor) -> Tensor:
    over = _REDUCTIONS[rule.reduce].over
    rows = x.permute(2, 0, 1, 3)
    parts = [over(rows[some], (0, 3)) for some in _cached(len(rows), rows)]
    found = _rounded(rule, over(torch.stack(parts), 0), x)
    return found[:, :, None, None] if rule.keepdim else found


@dataclass(frozen=True, eq=False)
class Around:
    """Maps of the base pass, and what their parts come to.

    Attributes:
        pixels: [n,H,W,C].
        block: that many columns are one.
        parts: float64 [q,C]. First what is above each row of a map and above its end, then what is
            from there on; then, where a row has several blocks, the same for its blocks.
    """

    pixels: Tensor
    block: int
    parts: Tensor

    @property
    def size(self) -> np.ndarray:
        """Rows, and blocks in a row."""
        _, height, width, _ = self.pixels.shape
        return np.array([height, -(-width // self.block)])

    def in_blocks(self, boxes: Boxes) -> Boxes:
        """Boxes of pixels [P,4] as those of rows and blocks around them."""
        blocks = boxes.copy()
        blocks[:, 1] //= self.block
        blocks[:, 3] = -(-boxes[:, 3] // self.block)
        return blocks

    def outside(self, images: np.ndarray, boxes: Boxes) -> np.ndarray:
        """Of each box of rows and blocks, all of one height: which parts are around it [P,k]."""
        (height, blocks), count = self.size, len(self.pixels)
        maps = count * (height + 1)
        map_ = images * (height + 1)
        index = [(map_ + boxes[:, 0])[:, None], (maps + map_ + boxes[:, 2])[:, None]]
        if blocks > 1:
            y = boxes[:, 0, None] + np.arange(boxes[0, 2] - boxes[0, 0])
            row = 2 * maps + (images[:, None] * height + y) * (blocks + 1)
            right = row + count * height * (blocks + 1)
            index += [row + boxes[:, 1, None], right + boxes[:, 3, None]]
        return np.concatenate(index, 1)


@around.of(GlobalPool)
def _around(rule: GlobalPool, pixels: Tensor) -> Around:
    reduction = _REDUCTIONS[rule.reduce]
    count, height, width, channels = pixels.shape
    block = min(_BLOCK, width)
    of_blocks = _of_blocks(reduction, pixels.flatten(0, 1), block)
    of_rows = reduction.over(of_blocks, 1).unflatten(0, (count, height))
    blocks = of_blocks.shape[1]
    sizes = [count * (height + 1)] * 2 + [count * height * (blocks + 1)] * 2 * (blocks > 1)
    parts = of_rows.new_empty(sum(sizes), channels)
    places = parts.split(sizes)
    for part, write in zip(places[:2], (reduction.before, reduction.after), strict=True):
        write(of_rows, 1, part.unflatten(0, (count, height + 1)))
    if blocks > 1:
        for part, write in zip(places[2:], (reduction.before, reduction.after), strict=True):
            write(of_blocks, 1, part.unflatten(0, (count * height, blocks + 1)))
    return Around(pixels, block, parts)


def _of_blocks(reduction: _Reduction, rows: Tensor, block: int) -> Tensor:
    """What the blocks of rows of pixels [n,W,C] come to, the last of fewer columns."""
    count, width, channels = rows.shape
    whole = width - width % block
    found = rows.new_empty(count, -(-width // block), channels, dtype=torch.float64)
    for some in _cached(count, rows):
        equal = rows[some, :whole].unflatten(1, (-1, block))
        found[some, : whole // block] = reduction.over(equal, 2)
        if whole < width:
            found[some, -1] = reduction.over(rows[some, whole:], 1)
    return found


@patched.of(GlobalPool)
def _patched(
    rule: GlobalPool, step: Step, sources: Sequence[Patches], bases: Sequence[Any], boxes: Boxes
) -> Patches:
    """``bases``: the one :class:`Around`."""
    (source,), (base,) = sources, bases
    groups, count = source.tables.once(step.value, lambda: _equal(source, base, boxes))
    found = base.parts.new_empty(count, base.pixels.shape[3])
    for group in groups:
        found[group.places] = _together(rule, source, base, group)
    out = as_pixels(finish(step, as_maps(_rounded(rule, found, base.pixels)[:, None, None])))
    return patches_at(out, boxes, source, step.value)


@dataclass(frozen=True, eq=False)
class _Equal:
    """Positions whose rectangles are of one size, in rows and blocks.

    Attributes:
        places: int64 [p], which of those that have a rectangle they are.
        height, width: of a rectangle, pixels.
        windows: the rectangles.
        outside: int64 [p,k], the parts around each.
    """

    places: Tensor
    height: int
    width: int
    windows: WindowsAt
    outside: Tensor


def _equal(source: Patches, base: Around, boxes: Boxes) -> tuple[list[_Equal], int]:
    """The positions that change something, in groups, and how many they are."""
    pixels = base.pixels
    item = base.block * pixels.shape[3] * pixels.element_size()  # bytes of a block
    blocks = base.in_blocks(source.boxes)
    alive = areas(boxes) > 0
    blocks[~alive] = 0
    place = np.cumsum(alive) - 1
    groups: list[_Equal] = []
    profile = source.tables.profile
    vain = profile.cone_call / profile.byte  # bytes that cost what calls for another size do
    for members, size in buckets(blocks, vain / item):
        together = max(1, profile.windows // (size[0] * size[1] * item))
        for begin in range(0, len(members), together):
            some = members[begin : begin + together]
            start = np.minimum(blocks[some, :2], base.size - size)
            at = np.concatenate([start, start + size], 1)
            own = some_of(source, some)
            groups.append(
                _Equal(
                    on_device(place[some], pixels.device),
                    size[0],
                    size[1] * base.block,
                    windows_at([own], at * np.array([1, base.block] * 2), pixels.device),
                    on_device(base.outside(own.rows[:, 0], at), pixels.device),
                )
            )
    return groups, int(alive.sum())


def _together(rule: GlobalPool, source: Patches, base: Around, group: _Equal) -> Tensor:
    """What each position's whole map comes to, float64 [p,C]: its rectangle, and what is around."""
    reduction = _REDUCTIONS[rule.reduce]
    pixels = gathered_at([(source, base.pixels)], group.windows, reduction.nothing)
    rows = reduction.over_pixels(pixels.view(-1, group.width, pixels.shape[1]))
    both = [base.parts[group.outside], rows.unflatten(0, (-1, group.height))]
    return reduction.over(torch.stack([reduction.over(part, 1) for part in both]), 0)


# --- going down -----------------------------------------------------------------------------------


@below.of(GlobalPool)
def _spread(rule: GlobalPool, batch: Batch, node: Node, signal: Signal) -> Sent:
    """To every pixel the same. Of means and sums:
    :func:`zfcuda.cones.observing.obstacle` lets no others pass."""
    signal = signal.as_windows(node.shape[0])
    boxes = batch.boxes_below(node, signal.boxes)
    signal = signal.on_the_map((1, 1))
    height, width = rule.size
    share = 1 / (height * width) if rule.reduce == "mean" else 1.0
    data = (signal.data * share).expand(-1, height, width, -1).contiguous()
    return [(node.inputs[0], Windows(signal.units, data, signal.origins, boxes))]
