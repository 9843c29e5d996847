"""Maps whose rows and columns are weighted sums of others: linear and cubic interpolation, averages
over adaptive windows (:class:`zfcuda.graph.nodes.Resampling`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    field,
    finishes,
    growth,
    needed,
    patched,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent, finish
from zfcuda.cones.operators.patches import Patches, as_pixels, as_row, gathered, patches_at
from zfcuda.cones.operators.rectangles import (
    Boxes,
    Interval,
    ReceptiveField,
    areas,
    boxes_of,
    hull,
    pixels_in,
    product_of,
)
from zfcuda.cones.operators.signals import Ints, Signal, Windows, frames
from zfcuda.graph.nodes import Node, Pair, Resampling, Taps


@reached.of(Resampling)
def _reached(rule: Resampling, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    axes = (taps.transposed for taps in (rule.rows, rule.columns))
    return boxes_of(*(_taken(*boxes[:, at::2].T, taps) for at, taps in enumerate(axes)))


@needed.of(Resampling)
def _needed(rule: Resampling, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    axes = (rule.rows, rule.columns)
    return boxes_of(*(_taken(*boxes[:, at::2].T, taps) for at, taps in enumerate(axes)))


def _taken(start: Ints, stop: Ints, taps: Taps) -> Interval:
    """From the first to the last that numbers in [start, stop) take."""
    first, last = taps.extent
    at = np.arange(len(first))
    inside = (start[:, None] <= at) & (at < stop[:, None]) & (last >= 0)
    return hull(first, last, inside, 1)


@field.of(Resampling)
def _field(rule: Resampling, below: ReceptiveField) -> ReceptiveField | None:
    """None unless they are as if windows of one size slid evenly."""
    size, stride, start = [], [], []
    for axis, taps in enumerate((rule.rows, rule.columns)):
        first, last = taps.extent
        middle = len(first) // 2
        step = int(first[middle] - first[middle - 1]) if middle else 1
        reach = int(last[middle] - first[middle])
        begin = int(first[middle]) - middle * step
        at = begin + np.arange(len(first)) * step
        even = (first == at.clip(0)) & (last == (at + reach).clip(None, taps.size - 1))
        if step < 1 or not even.all():
            return None
        stride.append(below.stride[axis] * step)
        start.append(below.start[axis] + begin * below.stride[axis])
        size.append(below.size[axis] + reach * below.stride[axis])
    return ReceptiveField((size[0], size[1]), (stride[0], stride[1]), (start[0], start[1]))


@growth.of(Resampling)
def _growth(rule: Resampling, sides: np.ndarray) -> float:
    sides = np.maximum(sides.mean(0), 1)
    axes = (rule.rows, rule.columns)
    steps = np.array([taps.size / len(taps.places) for taps in axes])
    reach = np.array([taps.places.shape[1] for taps in axes])
    return float((((sides - 1) * steps + reach) / sides).prod())


@words.of(Resampling)
def _words(rule: Resampling, node: Node) -> Naming:
    made = f"to {product_of(node.shape[1:])} pixels"
    return Naming(node.spelled, made, "spreading", "by the same weights")


finishes.of(Resampling)(lambda rule: True)


# --- up -------------------------------------------------------------------------------------------


@whole.of(Resampling)
def _maps(rule: Resampling, step: Step, x: Tensor) -> Tensor:
    return rule.function(x)


@patched.of(Resampling)
def _patches(
    rule: Resampling,
    step: Step,
    sources: Sequence[Patches],
    bases: Sequence[Tensor],
    boxes: Boxes,
) -> Patches:
    (source,), (base,) = sources, bases
    size = base.shape[1:3]
    taken = needed(rule, boxes, size, step.shape[1:])
    pixels = gathered([(source, base)], taken)
    out = resampled(pixels, taken, boxes, rule.rows, rule.columns)
    return patches_at(as_pixels(finish(step, as_row(out))), boxes, source)


def resampled(pixels: Tensor, source: Boxes, target: Boxes, rows: Taps, columns: Taps) -> Tensor:
    """Pixels [n,C] at the boxes ``target`` [P,4], one box after another, of those at the boxes
    ``source``. What lies elsewhere counts for nothing. Sums are kept in float32 at least."""
    dtype = pixels.dtype
    pixels = pixels.to(torch.promote_types(dtype, torch.float32))
    (top, left, bottom, right), (y0, x0, y1, x1) = source.T, target.T
    rows_first = np.stack([y0, left, y1, right], 1)
    columns_first = np.stack([top, x0, bottom, x1], 1)
    if areas(rows_first).sum() <= areas(columns_first).sum():
        pixels = _along(0, pixels, source, rows_first, rows)
        return _along(1, pixels, rows_first, target, columns).to(dtype)
    pixels = _along(1, pixels, source, columns_first, columns)
    return _along(0, pixels, columns_first, target, rows).to(dtype)


def _along(axis: int, pixels: Tensor, source: Boxes, target: Boxes, taps: Taps) -> Tensor:
    """The same along one axis; on the other the boxes are alike."""
    if taps.still and (source == target).all():
        return pixels
    which, places = pixels_in(target)
    if not len(which):
        return pixels.new_empty(0, pixels.shape[1])
    taken = taps.places[places[axis]]
    top, left, _, right = source[which].T
    real = taken >= source[which, axis, None]
    real &= taken < source[which, 2 + axis, None]
    width, begin = right - left, (np.cumsum(areas(source)) - areas(source))[which]
    if axis == 0:
        at = (taken - top[:, None]) * width[:, None] + (begin + places[1] - left)[:, None]
    else:
        at = taken + (begin + (places[0] - top) * width - left)[:, None]
    ends = np.concatenate([[0], np.cumsum(real.sum(1))])
    weights = torch.from_numpy(taps.weights[places[axis]][real]).to(pixels.device, pixels.dtype)
    # A sum of weighted rows: a bag, as embeddings call it.
    return F.embedding_bag(
        torch.from_numpy(at[real]).to(pixels.device),
        pixels,
        torch.from_numpy(ends).to(pixels.device),
        per_sample_weights=weights,
        mode="sum",
        include_last_offset=True,
    )


# --- down -----------------------------------------------------------------------------------------


@below.of(Resampling)
def _below(rule: Resampling, batch: Batch, node: Node, signal: Signal) -> Sent:
    """Each pixel's signal goes to what it was made of, by the same weights."""
    channels, *size = batch.shape_below(node)
    signal = signal.as_windows(channels).on_the_map(node.shape[1:])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    source = np.concatenate([signal.origins, signal.origins + np.array(signal.data.shape[1:3])], 1)
    target = np.concatenate([origins, origins + np.array([height, width])], 1)
    rows, columns = rule.rows.transposed, rule.columns.transposed
    data = resampled(signal.data.reshape(-1, channels), source, target, rows, columns)
    windows = data.view(-1, height, width, channels)
    return [(node.inputs[0], Windows(signal.units, windows, origins, boxes))]
