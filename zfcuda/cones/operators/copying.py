"""Maps whose pixels are copies of pixels of other maps: padding, cropping, flipping, nearest
resampling (:class:`zfcuda.graph.nodes.PixelCopy`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
from zfcuda.cones.operators.patches import Patches, patches_at
from zfcuda.cones.operators.rectangles import Boxes, ReceptiveField, boxes_of, hull
from zfcuda.cones.operators.signals import Ints, Signal, Windows, frames
from zfcuda.graph.nodes import Node, Pair, PixelCopy


@reached.of(PixelCopy)
def _reached(rule: PixelCopy, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    """What copies something of the boxes."""
    rows, columns = (
        hull(at, at, (boxes[:, axis, None] <= source) & (source < boxes[:, axis + 2, None]), 1)
        for axis, source in enumerate((rule.rows, rule.columns))
        for at in (np.arange(len(source)),)
    )
    return boxes_of(rows, columns)


@needed.of(PixelCopy)
def _needed(rule: PixelCopy, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    """What is copied to the boxes."""
    intervals = []
    for axis, source in enumerate((rule.rows, rule.columns)):
        at = np.arange(len(source))
        inside = (boxes[:, axis, None] <= at) & (at < boxes[:, axis + 2, None]) & (source >= 0)
        intervals.append(hull(source, source, inside, 1))
    return boxes_of(*intervals)


@field.of(PixelCopy)
def _field(rule: PixelCopy, below: ReceptiveField) -> ReceptiveField | None:
    stride, start = [], []
    for axis, source in enumerate((rule.rows, rule.columns)):
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


@words.of(PixelCopy)
def _words(rule: PixelCopy, node: Node) -> Naming:
    return Naming(node.spelled, "copies of pixels", "adding up", "what copies are sent")


@whole.of(PixelCopy)
def _whole(rule: PixelCopy, step: Step, x: Tensor) -> Tensor:
    return rule.function(x)


@patched.of(PixelCopy)
def _patched(
    rule: PixelCopy, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    out = _copied(rule, sources[0].buffers, sources[0].rows, bases[0], boxes)
    return patches_at(out, boxes, sources[0])


@below.of(PixelCopy)
def _below(rule: PixelCopy, batch: Batch, node: Node, signal: Signal) -> Sent:
    size = batch.shape_below(node)[1:]
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    data = _returned(rule, signal.data, signal.origins, origins, height, width)
    return [(node.inputs[0], Windows(signal.units, data, origins, boxes))]


def _copied(
    rule: PixelCopy, buffers: Sequence[Tensor], rows: Ints, base: Tensor, boxes: Ints
) -> Tensor:
    """The pixels [n,C] at ``boxes`` [P,4], one box after another.

    Args:
        buffers, rows: of the patches on the maps that are copied
            (:class:`zfcuda.cones.operators.patches.Patches`).
        base: those maps without occluder, [n,H,W,C].
    """
    _, height, width, channels = base.shape
    which, y, x = _pixels(boxes)
    y, x = rule.rows[y], rule.columns[x]
    image, buffer, offset, pitch, top, left, bottom, right = rows[which].T
    empty = (y < 0) | (x < 0)
    index = (image * height + y.clip(0)) * width + x.clip(0)
    out = base.reshape(-1, channels)[_tensor(index, base)]
    inside = (buffer >= 0) & ~empty & (y >= top) & (y < bottom) & (x >= left) & (x < right)
    within = offset + (y - top) * pitch + (x - left)
    for number, pixels in enumerate(buffers):
        own = np.flatnonzero(inside & (buffer == number))
        if len(own):
            out[_tensor(own, base)] = pixels[_tensor(within[own], base)]
    if empty.any():
        out[_tensor(np.flatnonzero(empty), base)] = rule.fill
    return out


def _returned(
    rule: PixelCopy, data: Tensor, origins: Ints, below: Ints, height: int, width: int
) -> Tensor:
    """The signal below, [q,height,width,C] at ``below`` [q,2]: what copies of a pixel are sent adds
    up.

    Args:
        data: the signal [q,h,w,C] in windows at ``origins`` [q,2].
    """
    count, h, w, channels = data.shape
    windows = np.concatenate([origins, origins + np.array([h, w])], 1)
    which, y, x = _pixels(windows)
    y, x = rule.rows[y], rule.columns[x]
    copies = (y >= 0) & (x >= 0)
    y, x = y - below[which, 0], x - below[which, 1]
    own = np.flatnonzero(copies & (y >= 0) & (y < height) & (x >= 0) & (x < width))
    index = (which[own] * height + y[own]) * width + x[own]
    out = data.new_zeros(count * height * width, channels)
    out.index_add_(0, _tensor(index, data), data.reshape(-1, channels)[_tensor(own, data)])
    return out.view(count, height, width, channels)


def _pixels(boxes: Ints) -> tuple[Ints, Ints, Ints]:
    """Of all pixels in these boxes, one box after another: the box's number, row and column."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = sides.prod(1)
    which = np.repeat(np.arange(len(boxes)), areas)
    place = np.arange(len(which)) - (np.cumsum(areas) - areas)[which]
    widths = sides[which, 1]
    return which, boxes[which, 0] + place // widths, boxes[which, 1] + place % widths


def _tensor(index: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(index).to(like.device)
