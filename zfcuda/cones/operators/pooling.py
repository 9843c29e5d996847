"""Pooling: the largest of a window, with its switch, and the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.batch import Batch, Manner
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    field,
    growth,
    looks_back,
    needed,
    patched,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent, finish, times_derivative
from zfcuda.cones.operators.patches import (
    EqualWindows,
    Patches,
    on_equal_windows,
    patches_at,
    windows_at,
)
from zfcuda.cones.operators.rectangles import Boxes, ReceptiveField, SlidingWindow, product_of
from zfcuda.cones.operators.signals import Points, Signal, Windows, frames, table
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import AvgPool, MaxPool, Pair
from zfcuda.ops.windows import on_device


def _window(rule: MaxPool | AvgPool) -> SlidingWindow:
    dilation = rule.dilation if isinstance(rule, MaxPool) else (1, 1)
    return SlidingWindow(rule.kernel, rule.stride, rule.padding, dilation)


@reached.of(MaxPool, AvgPool)
def _reached(rule: MaxPool | AvgPool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).reached(boxes, in_size, out_size)


@needed.of(MaxPool, AvgPool)
def _needed(rule: MaxPool | AvgPool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).needed(boxes, in_size, out_size)


@field.of(MaxPool, AvgPool)
def _field(rule: MaxPool | AvgPool, below: ReceptiveField) -> ReceptiveField:
    return _window(rule).field(below)


@growth.of(MaxPool, AvgPool)
def _growth(rule: MaxPool | AvgPool, sides: np.ndarray) -> float:
    return _window(rule).growth(sides)


# --- the largest ----------------------------------------------------------------------------------


@whole.of(MaxPool)
def _largest(rule: MaxPool, step: Step, x: Tensor) -> Tensor:
    window = (rule.kernel, rule.stride, rule.padding, rule.dilation)
    return ops.max_pool2d(x, *window, rule.ceil_mode, rule.relu)[0]


@patched.of(MaxPool)
def _largest_in_patches(
    rule: MaxPool, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    (source,), (base,) = sources, bases
    windows = source.tables.once(step.value, lambda: windows_at([source], boxes, base.device))
    out = base.new_empty(windows.pixels, base.shape[3])
    ops.pool_windows(
        base,
        source.buffers,
        windows.tables[0],
        out,
        windows.largest,
        rule.kernel,
        rule.stride,
        rule.padding,
        rule.dilation,
        rule.relu,
    )
    return patches_at(out, boxes, source, step.value)


@looks_back.of(MaxPool)
def _rectified_by_gradient(rule: MaxPool, manner: Manner) -> bool:
    return rule.relu and manner.rule == "gradient"


@below.of(MaxPool)
def _unpooled(rule: MaxPool, batch: Batch, node: Node, signal: Signal) -> Sent:
    """To one node further, and rectified, where the pool's input is a rectifier."""
    target, manner = node.inputs[0], batch.manner
    rectify = rule.relu and manner.rule == "deconv"
    if isinstance(signal, Points) and manner.overlap == "sum":
        found: Signal = _through_switches(batch, node, rule, signal)
        found = found.rectified() if rectify else found
    else:
        lower = batch.graph.nodes[target]
        if manner.rectifies(lower.rule) and len(batch.graph.consumers[target]) == 1:
            rectify, target = True, lower.inputs[0]
        found = _unpooled_windows(batch, node, rule, signal.as_windows(node.shape[0]), rectify)
    if manner.uses_forward_values(rule):
        found = times_derivative(batch, node, torch.relu, found)
    return [(target, found)]


def _through_switches(batch: Batch, node: Node, rule: MaxPool, points: Points) -> Points:
    """A point under max-pooling is a point again."""
    switches = batch.observed.switches[node.index]
    tap = batch.taps_at(node, switches, points)
    none = tap == (255 if switches.dtype == torch.uint8 else -1)
    taps = np.stack(np.divmod(tap.astype(np.int64), rule.kernel[1]), 1)
    places = points.places * rule.stride - rule.padding + taps * rule.dilation
    places[none] = 0
    values = points.values
    if none.any():
        values = values.masked_fill(on_device(none, values.device), 0)
    return replace(points, places=places, values=values)


def _unpooled_windows(
    batch: Batch, node: Node, rule: MaxPool, signal: Windows, relu: bool
) -> Windows:
    channels, *size = batch.shape_below(node)
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    data = signal.data.new_empty(len(signal.units), height, width, channels)
    images = batch.images[signal.units]
    ops.unpool_windows(
        batch.observed.switches[node.index],
        [signal.data.reshape(-1, channels)],
        table(images, signal, origins, height, width, data.device),
        data.view(-1, channels),
        height * width,
        rule.kernel,
        rule.stride,
        rule.padding,
        rule.dilation,
        relu,
        batch.manner.overlap == "overwrite",
    )
    return Windows(signal.units, data, origins, boxes)


@words.of(MaxPool)
def _max_pooling(rule: MaxPool, node: Node) -> Naming:
    kind = "rectified max-pooling" if rule.relu else "max-pooling"
    also = ", then rectified" if rule.relu else ""
    size = f"{product_of(rule.kernel)} windows{_window(rule)}"
    return Naming(kind, size, "max-unpooling", f"by the switches{also}")


# --- the mean -------------------------------------------------------------------------------------


@whole.of(AvgPool)
def _mean(rule: AvgPool, step: Step, x: Tensor) -> Tensor:
    return averages(x, rule)


def averages(x: Tensor, rule: AvgPool) -> Tensor:
    """The rule on maps [n,C,h,w]."""
    if rule.kernel == tuple(x.shape[2:]) and rule.padding == (0, 0) and rule.divisor is None:
        return x.mean((2, 3), keepdim=True)  # whose sum is pairwise: a pool's loses digits
    more = (rule.ceil_mode, rule.count_include_pad, rule.divisor)
    return F.avg_pool2d(x, rule.kernel, rule.stride, rule.padding, *more)


@patched.of(AvgPool)
def _mean_in_patches(
    rule: AvgPool, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    (source,), (base,) = sources, bases
    inside = replace(rule, padding=(0, 0), ceil_mode=False)

    def averaged(windows: Tensor, at: EqualWindows) -> Tensor:
        means = averages(windows, inside)
        if not rule.divisor:
            key = (step.value, "weights", at.number)
            weights = source.tables.once(key, lambda: _weights(means, rule, base, at.start))
            means = means if weights is None else means.mul_(weights)
        return finish(step, means)

    work, key = step.shape[0], step.value
    return on_equal_windows(source, base, boxes, _window(rule), step.shape, work, averaged, key)


def _weights(means: Tensor, rule: AvgPool, base: Tensor, start: np.ndarray) -> Tensor | None:
    """What makes means over whole windows [n,C,h,w], whose first is at ``start`` [n,2], means over
    those elements that torch counts: [n,1,h,w], for there are fewer at the edges; None if nowhere.
    """
    shares = [
        rule.kernel[axis]
        / _elements(start[:, axis, None] + np.arange(means.shape[2 + axis]), rule, base, axis)
        for axis in (0, 1)
    ]
    if all((share == 1).all() for share in shares):
        return None
    wide = torch.promote_types(means.dtype, torch.float32)
    rows, columns = (on_device(share, means.device).to(wide) for share in shares)
    return rows[:, None, :, None] * columns[:, None, None, :]


def _elements(at: np.ndarray, rule: AvgPool, base: Tensor, axis: int) -> np.ndarray:
    """The elements that windows ``at`` count along one axis."""
    length, padding = base.shape[1 + axis], rule.padding[axis]
    begin = at * rule.stride[axis] - padding
    end = np.minimum(begin + rule.kernel[axis], length + padding)
    if not rule.count_include_pad:
        begin, end = np.maximum(begin, 0), np.minimum(end, length)
    return end - begin


@below.of(AvgPool)
def _spread(rule: AvgPool, batch: Batch, node: Node, signal: Signal) -> Sent:
    """Each element's share of the signal, in all the places of its window."""
    size = batch.shape_below(node)[1:]
    signal = signal.as_windows(node.shape[0])
    boxes = batch.boxes_below(node, signal.boxes)
    signal = signal.on_the_map(node.shape[1:])
    shares = batch.observed.once(node, lambda: _shares(rule, size, signal.data))
    data = signal.data * _cut(shares, signal)[..., None]
    origins = signal.origins * rule.stride - rule.padding
    return [(node.inputs[0], Windows(signal.units, _repeated(data, rule), origins, boxes))]


def _shares(rule: AvgPool, size: Sequence[int], like: Tensor) -> Tensor:
    """[OH,OW]: what a window's average gives to each of its elements."""
    ones = like.new_ones(1, 1, *size)
    window = (rule.kernel, rule.stride, rule.padding, rule.ceil_mode)
    mean = F.avg_pool2d(ones, *window, rule.count_include_pad, rule.divisor)
    return (mean / F.avg_pool2d(ones, *window, divisor_override=1))[0, 0]


def _cut(plane: Tensor, signal: Windows) -> Tensor:
    """What of a plane [H,W] lies under windows on it: [q,h,w]."""
    rows, cols = (
        on_device(
            signal.origins[:, axis, None] + np.arange(signal.data.shape[1 + axis]), plane.device
        )
        for axis in (0, 1)
    )
    return plane[rows[:, :, None], cols[:, None, :]]


def _repeated(data: Tensor, rule: AvgPool) -> Tensor:
    """Each pixel of windows [q,h,w,C] added to all the places that its pooling window had."""
    (kh, kw), (sh, sw) = rule.kernel, rule.stride
    count, h, w, channels = data.shape
    if h == w == 1:
        return data.expand(count, kh, kw, channels).contiguous()
    rows, cols = (h - 1) * sh + 1, (w - 1) * sw + 1
    out = data.new_zeros(count, rows + kh - 1, cols + kw - 1, channels)
    for i in range(kh):
        for j in range(kw):
            out[:, i : i + rows : sh, j : j + cols : sw] += data
    return out


@words.of(AvgPool)
def _average_pooling(rule: AvgPool, node: Node) -> Naming:
    size = f"{product_of(rule.kernel)} windows{_window(rule)}"
    return Naming("average pooling", size, "spreading", "evenly over each window")
