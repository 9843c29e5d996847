"""Maps whose rows and columns are weighted sums of others: linear and cubic interpolation, averages
over adaptive windows (:class:`zfcuda.graph.rules.Resampling`); and the largest numbers of such
windows (:class:`zfcuda.graph.rules.AdaptiveMaxPool`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.cones.operators.batch import Batch, Manner
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    field,
    finishes,
    growth,
    looks_back,
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
from zfcuda.cones.operators.signals import Ints, Points, Signal, Windows, at, frames
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import AdaptiveMaxPool, Pair, Resampling, Taps
from zfcuda.ops.windows import on_device

_Rule = Resampling | AdaptiveMaxPool


@reached.of(Resampling, AdaptiveMaxPool)
def _reached(rule: _Rule, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    axes = (taps.transposed for taps in (rule.rows, rule.columns))
    return boxes_of(*(_taken(*boxes[:, at::2].T, taps) for at, taps in enumerate(axes)))


@needed.of(Resampling, AdaptiveMaxPool)
def _needed(rule: _Rule, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    axes = (rule.rows, rule.columns)
    return boxes_of(*(_taken(*boxes[:, at::2].T, taps) for at, taps in enumerate(axes)))


def _taken(start: Ints, stop: Ints, taps: Taps) -> Interval:
    """From the first to the last that numbers in [start, stop) take."""
    first, last = taps.extent
    at = np.arange(len(first))
    inside = (start[:, None] <= at) & (at < stop[:, None]) & (last >= 0)
    return hull(first, last, inside, 1)


@field.of(Resampling, AdaptiveMaxPool)
def _field(rule: _Rule, below: ReceptiveField) -> ReceptiveField | None:
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


@growth.of(Resampling, AdaptiveMaxPool)
def _growth(rule: _Rule, sides: np.ndarray) -> float:
    sides = np.maximum(sides.mean(0), 1)
    axes = (rule.rows, rule.columns)
    steps = np.array([taps.size / len(taps.places) for taps in axes])
    reach = np.array([taps.places.shape[1] for taps in axes])
    return float((((sides - 1) * steps + reach) / sides).prod())


@words.of(Resampling)
def _words(rule: Resampling, node: Node) -> Naming:
    made = f"to {product_of(node.shape[1:])} pixels"
    return Naming(node.spelled, made, "spreading", "by the same weights")


finishes.of(Resampling, AdaptiveMaxPool)(lambda rule: True)


# --- up -------------------------------------------------------------------------------------------


@whole.of(Resampling, AdaptiveMaxPool)
def _maps(rule: _Rule, step: Step, x: Tensor) -> Tensor:
    return rule.function(x)


@patched.of(Resampling, AdaptiveMaxPool)
def _patches(
    rule: _Rule,
    step: Step,
    sources: Sequence[Patches],
    bases: Sequence[Tensor],
    boxes: Boxes,
) -> Patches:
    (source,), (base,) = sources, bases
    taken = needed(rule, boxes, base.shape[1:3], step.shape[1:])
    pixels = gathered([(source, base)], taken, step.value)
    kind = sums if isinstance(rule, Resampling) else maxima
    axes = source.tables.once(
        step.value, lambda: passes(kind, taken, boxes, rule.rows, rule.columns, base.device)
    )
    out = resampled(pixels, axes)
    return patches_at(as_pixels(finish(step, as_row(out))), boxes, source, step.value)


def resampled(pixels: Tensor, passes: Sequence[Pass]) -> Tensor:
    """Pixels [n,C] by one axis after the other. Sums are kept in float32 at least."""
    made = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    for along in passes:
        made = along(made)
    return made.to(pixels.dtype)


Pass = Callable[[Tensor], Tensor]
"""Of pixels [m,C] others [n,C], along one axis."""


def passes(
    kind: Callable[..., Pass],
    source: Boxes,
    target: Boxes,
    rows: Taps,
    columns: Taps,
    device: torch.device,
) -> list[Pass]:
    """From pixels at the boxes ``source`` [P,4], one box after another, to those at the boxes
    ``target``: first along the axis that leaves less to do. What lies elsewhere counts for nothing;
    of maxima ``source`` must hold something of each window."""
    (top, left, bottom, right), (y0, x0, y1, x1) = source.T, target.T
    between = np.stack([y0, left, y1, right], 1), np.stack([top, x0, bottom, x1], 1)
    order = [(0, rows), (1, columns)]
    if areas(between[0]).sum() > areas(between[1]).sum():
        order.reverse()
    at, found = source, []
    for place, (axis, taps) in enumerate(order):
        onto = target if place else between[axis]
        if not (taps.still and (at == onto).all()):
            found.append(_along(kind, axis, at, onto, taps, device))
        at = onto
    return found


def _along(
    kind: Callable[..., Pass],
    axis: int,
    source: Boxes,
    target: Boxes,
    taps: Taps,
    device: torch.device,
) -> Pass:
    """One axis; on the other the boxes are alike."""
    which, places = pixels_in(target)
    if not len(which):
        return partial(_none)
    taken = taps.places[places[axis]]
    top, left, _, right = source[which].T
    real = taken >= source[which, axis, None]
    real &= taken < source[which, 2 + axis, None]
    width, begin = right - left, (np.cumsum(areas(source)) - areas(source))[which]
    if axis == 0:
        at = (taken - top[:, None]) * width[:, None] + (begin + places[1] - left)[:, None]
    else:
        at = taken + (begin + (places[0] - top) * width - left)[:, None]
    return kind(at, real, taps.weights[places[axis]], device)


def _none(pixels: Tensor) -> Tensor:
    return pixels.new_empty(0, pixels.shape[1])


def sums(at: Ints, real: Ints, weights: np.ndarray, device: torch.device) -> Pass:
    """Of pixels [m,C] those ``at`` [n,T], as far as they are ``real``, times their weights."""
    index = on_device(at[real], device)
    ends = on_device(np.concatenate([[0], np.cumsum(real.sum(1))]), device)
    return partial(_bags, index, ends, on_device(weights[real], device))


def _bags(index: Tensor, ends: Tensor, shares: Tensor, pixels: Tensor) -> Tensor:
    """Sums of weighted rows: bags, as embeddings call them."""
    return F.embedding_bag(
        index,
        pixels,
        ends,
        per_sample_weights=shares.to(pixels.dtype),
        mode="sum",
        include_last_offset=True,
    )


def maxima(at: Ints, real: Ints, _: np.ndarray, device: torch.device) -> Pass:
    """Of pixels [m,C] the largest of those ``at`` [n,T] that are ``real``."""
    first = np.take_along_axis(at, real.argmax(1)[:, None], 1)
    return partial(_largest, on_device(np.where(real, at, first).T.copy(), device))


def _largest(index: Tensor, pixels: Tensor) -> Tensor:
    out = pixels[index[0]]
    for other in index[1:]:
        torch.maximum(out, pixels[other], out=out)
    return out


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
    axes = passes(sums, source, target, rows, columns, signal.data.device)
    data = resampled(signal.data.reshape(-1, channels), axes)
    windows = data.view(-1, height, width, channels)
    return [(node.inputs[0], Windows(signal.units, windows, origins, boxes))]


@looks_back.of(AdaptiveMaxPool)
def _wants_maps(rule: AdaptiveMaxPool, manner: Manner) -> bool:
    return True  # for its switches


@below.of(AdaptiveMaxPool)
def _unpooled(rule: AdaptiveMaxPool, batch: Batch, node: Node, signal: Signal) -> Sent:
    """To where the largest numbers were: what several windows send to one place adds up there, as
    in torch's own backward pass."""
    channels, *size = batch.shape_below(node)
    maps = batch.observed.inputs[node.index]
    switches = batch.observed.once(node, lambda: _switches(maps, node.shape[1:]))
    if isinstance(signal, Points):
        place = batch.taps_at(node, switches, signal)
        return [(node.inputs[0], replace(signal, places=np.stack(np.divmod(place, size[1]), 1)))]
    signal = signal.on_the_map(node.shape[1:])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    rows, columns = (
        signal.origins[:, axis, None] + np.arange(signal.data.shape[1 + axis]) for axis in (0, 1)
    )
    images = batch.images[signal.units]
    own = at(switches, images[:, None, None], rows[:, :, None], columns[:, None, :])
    top, left = on_device(origins.T[..., None, None, None], own.device)
    y, x = own // size[1] - top, own % size[1] - left
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = torch.where(inside, y * width + x, 0).flatten(1, 2)
    data = signal.data.new_zeros(len(images), height * width, channels)
    data.scatter_add_(1, index, torch.where(inside, signal.data, 0).flatten(1, 2))
    windows = data.view(-1, height, width, channels)
    return [(node.inputs[0], Windows(signal.units, windows, origins, boxes))]


def _switches(maps: Tensor, size: Pair) -> Tensor:
    """Where on its map [n,OH,OW,C] the largest number of each window is, row after row."""
    return F.adaptive_max_pool2d(maps, size, return_indices=True)[1].permute(0, 2, 3, 1)


@words.of(AdaptiveMaxPool)
def _max_words(rule: AdaptiveMaxPool, node: Node) -> Naming:
    made = f"to {product_of(node.shape[1:])} pixels"
    return Naming("adaptive max-pooling", made, "max-unpooling", "by the switches")
