"""One step down through a pool: unpooling by switches, and the transpose of averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.backward_cone.batch import Batch
from zfcuda.backward_cone.gradients import times_derivative
from zfcuda.backward_cone.signals import Points, Signal, Windows, frames, table
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import AvgPool, MaxPool


def unpooled(batch: Batch, node: Node, rule: MaxPool, signal: Signal) -> tuple[int, Signal]:
    """The signal below, and the node that it is of: one further, and rectified, where the pool's
    input is a rectifier."""
    below, manner = node.inputs[0], batch.manner
    rectify = rule.relu and manner.rule == "deconv"
    if isinstance(signal, Points) and manner.overlap == "sum":
        found: Signal = _through_switches(batch, node, rule, signal)
        found = found.rectified() if rectify else found
    else:
        lower = batch.graph.nodes[below]
        if manner.rectifies(lower.rule) and len(batch.graph.consumers[below]) == 1:
            rectify, below = True, lower.inputs[0]
        found = _unpooled_windows(batch, node, rule, signal.as_windows(node.shape[0]), rectify)
    if manner.uses_forward_values(rule):
        found = times_derivative(batch, node, torch.relu, found)
    return below, found


def _through_switches(batch: Batch, node: Node, rule: MaxPool, points: Points) -> Points:
    """A point under max-pooling is a point again."""
    switches = batch.observed.switches[node.index]
    tap = batch.at_points(switches, points).cpu().numpy()
    none = tap == (255 if switches.dtype == torch.uint8 else -1)
    taps = np.stack(np.divmod(tap.astype(np.int64), rule.kernel[1]), 1)
    places = points.places * rule.stride - rule.padding + taps * rule.dilation
    places[none] = 0
    values = points.values
    if none.any():
        values = values.masked_fill(torch.from_numpy(none).to(values.device), 0)
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


def spread(batch: Batch, node: Node, rule: AvgPool, signal: Signal) -> Windows:
    """The signal below an average: each element's share of it, in all the places of its window."""
    size = batch.shape_below(node)[1:]
    signal = signal.as_windows(node.shape[0])
    boxes = batch.boxes_below(node, signal.boxes)
    signal = signal.on_the_map(node.shape[1:])
    shares = batch.observed.once(node, lambda: _shares(rule, size, signal.data))
    data = signal.data * _cut(shares, signal)[..., None]
    origins = signal.origins * rule.stride - rule.padding
    return Windows(signal.units, _repeated(data, rule), origins, boxes)


def _shares(rule: AvgPool, size: Sequence[int], like: Tensor) -> Tensor:
    """[OH,OW]: what a window's average gives to each of its elements."""
    ones = like.new_ones(1, 1, *size)
    window = (rule.kernel, rule.stride, rule.padding, rule.ceil_mode)
    mean = F.avg_pool2d(ones, *window, rule.count_include_pad, rule.divisor)
    return (mean / F.avg_pool2d(ones, *window, divisor_override=1))[0, 0]


def _cut(plane: Tensor, signal: Windows) -> Tensor:
    """What of a plane [H,W] lies under windows on it: [q,h,w]."""
    rows, cols = (
        torch.from_numpy(signal.origins[:, axis, None] + np.arange(signal.data.shape[1 + axis])).to(
            plane.device
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
