"""Maps whose elements are copies of elements of other maps: padding, cropping, flipping, nearest
resampling, pixel shuffles, space to depth (:class:`zfcuda.graph.rules.Rearrangement`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from torch import Tensor

from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    field,
    needed,
    patched,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent
from zfcuda.cones.operators.patches import Patches, WindowsAt, gathered_at, patches_at, windows_at
from zfcuda.cones.operators.rectangles import (
    Boxes,
    ReceptiveField,
    areas,
    boxes_of,
    clip,
    hull,
    join_boxes,
    pixels_in,
)
from zfcuda.cones.operators.signals import Ints, Points, Signal, Windows, frames
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Moved, Pair, Rearrangement
from zfcuda.ops.windows import on_device


@reached.of(Rearrangement)
def _reached(rule: Rearrangement, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    """What copies something of the boxes."""
    found = []
    for part in rule.parts:
        axes = []
        for axis, places in enumerate((part.rows, part.columns)):
            at = np.arange(len(places))
            inside = (boxes[:, axis, None] <= places) & (places < boxes[:, axis + 2, None])
            axes.append(hull(at, at, inside, 1))
        found.append(clip(boxes_of(*axes), out_size))
    return join_boxes(*found)


@needed.of(Rearrangement)
def _needed(rule: Rearrangement, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return join_boxes(*(clip(_copied(part, boxes), in_size) for part in rule.parts))


def _copied(part: Moved, boxes: Boxes) -> Boxes:
    """What is copied to the boxes."""
    axes = []
    for axis, places in enumerate((part.rows, part.columns)):
        at = np.arange(len(places))
        inside = (boxes[:, axis, None] <= at) & (at < boxes[:, axis + 2, None]) & (places >= 0)
        axes.append(hull(places, places, inside, 1))
    return boxes_of(*axes)


@field.of(Rearrangement)
def _field(rule: Rearrangement, below: ReceptiveField) -> ReceptiveField | None:
    """None unless all maps are evenly spaced, and alike but for where they begin."""
    fields = [_spaced(part, below) for part in rule.parts]
    known = [each for each in fields if each is not None]
    if len(known) < len(fields) or any(each.stride != known[0].stride for each in known):
        return None
    starts = np.array([each.start for each in known])
    size = np.array(below.size) + starts.max(0) - starts.min(0)
    return replace(known[0], size=tuple(size.tolist()), start=tuple(starts.min(0).tolist()))


def _spaced(part: Moved, below: ReceptiveField) -> ReceptiveField | None:
    stride, start = [], []
    for axis, source in enumerate((part.rows, part.columns)):
        at = np.flatnonzero(source >= 0)
        if not len(at):
            return None
        step = int(source[at[1]] - source[at[0]]) if len(at) > 1 else 1
        first = int(source[at[0]] - at[0] * step)
        if step < 1 or (source[at] != first + at * step).any():
            return None
        stride.append(below.stride[axis] * step)
        start.append(below.start[axis] + first * below.stride[axis])
    return ReceptiveField(below.size, (stride[0], stride[1]), (start[0], start[1]))


@words.of(Rearrangement)
def _words(rule: Rearrangement, node: Node) -> Naming:
    return Naming(node.spelled, "copies of pixels", "adding up", "what copies are sent")


# --- up -------------------------------------------------------------------------------------------


@whole.of(Rearrangement)
def _maps(rule: Rearrangement, step: Step, x: Tensor) -> Tensor:
    return rule.function(x)


@patched.of(Rearrangement)
def _patches(
    rule: Rearrangement,
    step: Step,
    sources: Sequence[Patches],
    bases: Sequence[Tensor],
    boxes: Boxes,
) -> Patches:
    (source,), (base,) = sources, bases
    parts = source.tables.once(
        step.value,
        lambda: [
            (on_device(part.channels, base.device), _copying(rule, part, source, base, boxes))
            for part in rule.parts
        ],
    )
    if len(parts) == 1:
        out = parts[0][1](source, base)
    else:
        out = base.new_empty(int(areas(boxes).sum()), step.shape[0])
        for channels, copy in parts:
            out[:, channels] = copy(source, base)
    return patches_at(out, boxes, source, step.value)


Copy = Callable[[Patches, Tensor], Tensor]
"""Of patches and the maps [n,H,W,C] below them, pixels [m,C']."""


def _copying(rule: Rearrangement, part: Moved, source: Patches, base: Tensor, boxes: Boxes) -> Copy:
    """What makes the part's maps in ``boxes``, one box after another."""
    which, (y, x) = pixels_in(boxes)
    row, column = part.rows[y], part.columns[x]
    empty = (row < 0) | (column < 0)
    fill = on_device(np.flatnonzero(empty), base.device) if empty.any() else None
    if part.phases == 1:
        channels = part.sources[0, 0]
        copy = _of_pixels(source, base, which, row, column, ~empty, channels)
    else:
        phase = part.row_phases[y] * part.sources.shape[1] + part.column_phases[x]
        copy = _of_blocks(part, source, base, boxes, which, row, column, ~empty, phase)
    return copy if fill is None else partial(_filled, copy, fill, rule.fill)


def _filled(copy: Copy, places: Tensor, value: float, source: Patches, base: Tensor) -> Tensor:
    return copy(source, base).index_fill_(0, places, value)


def _of_blocks(
    part: Moved,
    source: Patches,
    base: Tensor,
    boxes: Boxes,
    which: Ints,
    row: Ints,
    column: Ints,
    real: Ints,
    phase: Ints,
) -> Copy:
    """The pixels at rows and columns of positions ``which`` [m], of those maps that a phase [m]
    takes; where they are not ``real``, any."""
    taken = clip(_copied(part, boxes), base.shape[1:3])
    windows = windows_at([source], taken, base.device)
    channels = on_device(part.sources.reshape(-1), base.device)
    begin = (np.cumsum(areas(taken)) - areas(taken))[which]
    top, left, _, right = taken[which].T
    index = (begin + (row - top) * (right - left) + column - left) * part.phases + phase
    places = on_device(np.where(real, index, 0), base.device)
    return partial(_from_blocks, windows, channels, places, part.sources.shape[2])


def _from_blocks(
    windows: WindowsAt,
    channels: Tensor,
    places: Tensor,
    count: int,
    source: Patches,
    base: Tensor,
) -> Tensor:
    if not windows.pixels:  # nothing is real
        return base.new_empty(len(places), count)
    pixels = gathered_at([(source, base)], windows)
    return pixels[:, channels].view(-1, count)[places]


def _of_pixels(
    source: Patches, base: Tensor, which: Ints, y: Ints, x: Ints, real: Ints, channels: Ints
) -> Copy:
    """The pixels at rows ``y`` and columns ``x`` of positions ``which`` [m], of these channels;
    where they are not ``real``, any."""
    _, height, width, count = base.shape
    device = base.device
    image, buffer, offset, pitch, top, left, bottom, right = source.rows[which].T
    places = on_device((image * height + y.clip(0)) * width + x.clip(0), device)
    inside = (buffer >= 0) & real & (y >= top) & (y < bottom) & (x >= left) & (x < right)
    within = offset + (y - top) * pitch + (x - left)
    own = [np.flatnonzero(inside & (buffer == number)) for number in range(len(source.buffers))]
    patched = [(on_device(i, device), on_device(within[i], device)) for i in own]
    picked = None if _all(channels, count) else on_device(channels, device)
    return partial(_from_pixels, places, patched, picked)


def _from_pixels(
    places: Tensor,
    patched: Sequence[tuple[Tensor, Tensor]],
    channels: Tensor | None,
    source: Patches,
    base: Tensor,
) -> Tensor:
    """The base pass's pixels at ``places``, those of each buffer written over some of them."""
    out = base.reshape(-1, base.shape[3])[places]
    for pixels, (into, at) in zip(source.buffers, patched, strict=True):
        if len(into):
            out[into] = pixels[at]
    return out if channels is None else out[:, channels]


def _picked(pixels: Tensor, channels: Ints) -> Tensor:
    return pixels if _all(channels, pixels.shape[1]) else pixels[:, _tensor(channels, pixels)]


def _all(channels: Ints, count: int) -> bool:
    """Whether these are so many channels in their order."""
    return len(channels) == count and bool((channels == np.arange(count)).all())


# --- down -----------------------------------------------------------------------------------------


@below.of(Rearrangement)
def _below(rule: Rearrangement, batch: Batch, node: Node, signal: Signal) -> Sent:
    """What copies of an element are sent adds up there."""
    channels, *size = batch.shape_below(node)
    if isinstance(signal, Points):
        moved = _moved_points(rule, node, signal)
        if moved is not None:
            return [(node.inputs[0], moved)]
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    data = signal.data.new_zeros(len(signal.units) * height * width, channels)
    for part in rule.parts:
        sent = _picked(signal.data.flatten(0, 2), part.channels)
        _add_back(data, part, sent, signal, origins, height, width)
    windows = data.view(-1, height, width, channels)
    return [(node.inputs[0], Windows(signal.units, windows, origins, boxes))]


def _add_back(
    data: Tensor, part: Moved, sent: Tensor, signal: Windows, origins: Ints, height: int, width: int
) -> None:
    """Add to windows' pixels ``data`` of that height and width at ``origins`` what the part's maps
    ``sent`` [n,m], in the signal's windows."""
    extent = np.array(signal.data.shape[1:3])
    which, (y, x) = pixels_in(np.concatenate([signal.origins, signal.origins + extent], 1))
    row, column = part.rows[y], part.columns[x]
    real = (row >= 0) & (column >= 0)
    row, column = row - origins[which, 0], column - origins[which, 1]
    own = np.flatnonzero(real & (row >= 0) & (row < height) & (column >= 0) & (column < width))
    phase = part.row_phases[y] * part.sources.shape[1] + part.column_phases[x]
    index = ((which * height + row) * width + column) * part.phases + phase
    order = part.sources.reshape(-1)
    whole = _all(order, data.shape[1])
    into = data if whole else sent.new_zeros(len(data), len(order))
    blocks = into.view(-1, part.sources.shape[2])
    blocks.index_add_(0, _tensor(index[own], data), sent[_tensor(own, data)])
    if not whole:
        data.index_add_(1, _tensor(order, data), into)


def _moved_points(rule: Rearrangement, node: Node, points: Points) -> Points | None:
    """Points are points again; None where one of them is of no element."""
    number, place = np.zeros((2, node.shape[0]), np.int64)
    for at, part in enumerate(rule.parts):
        number[part.channels], place[part.channels] = at, np.arange(len(part.channels))
    channels, places = points.channels.copy(), points.places.copy()
    for at, part in enumerate(rule.parts):
        own = np.flatnonzero(number[points.channels] == at)
        y, x = points.places[own].T
        places[own] = np.stack([part.rows[y], part.columns[x]], 1)
        phases = part.row_phases[y], part.column_phases[x]
        channels[own] = part.sources[(*phases, place[points.channels[own]])]
    return None if (places < 0).any() else replace(points, channels=channels, places=places)


def _tensor(index: Ints, like: Tensor) -> Tensor:
    return on_device(index, like.device)
