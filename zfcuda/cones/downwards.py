"""A batch of units beside the forward pass: what the steps down are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.boxes import backward_boxes
from zfcuda.cones.copying import returned
from zfcuda.cones.observing import Manner, Observed
from zfcuda.cones.signals import (
    Ints,
    Points,
    Signal,
    Windows,
    at,
    frames,
    gather,
    table,
)
from zfcuda.graph.nodes import AvgPool, Conv, Graph, Lrn, MaxPool, Node, PixelCopy, Pixelwise
from zfcuda.ops.windows import as_maps, pixels


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of units.

    Attributes:
        observed: the forward pass.
        images: [P], which of its images each unit is of.
    """

    observed: Observed
    images: Ints

    @property
    def graph(self) -> Graph:
        return self.observed.graph

    @property
    def manner(self) -> Manner:
        return self.observed.manner

    def shape_below(self, node: Node) -> tuple[int, ...]:
        """(C,H,W) of what a node takes."""
        return self.graph.nodes[node.inputs[0]].shape

    def boxes_below(self, node: Node, boxes: Ints) -> Ints:
        """What these boxes of a node's maps depend on in what it takes."""
        return backward_boxes(node.rule, boxes, self.shape_below(node)[1:], node.shape[1:])

    def at_points(self, pixels: Tensor, points: Points) -> Tensor:
        """Elements [q] of the forward pass where the points are."""
        return at(pixels, self.images[points.units], *points.places.T, points.channels)

    def under_windows(self, pixels: Tensor, signal: Windows) -> Tensor:
        """Pixels [q,h,w,C] of the forward pass where windows, which lie on the map, are."""
        count, height, width = signal.data.shape[:3]
        out = pixels.new_empty(count, height, width, pixels.shape[3])
        images = self.images[signal.units]
        gather(pixels, None, table(images, None, signal.origins, height, width, out.device), out)
        return out


def transposed(batch: Batch, node: Node, rule: Conv, signal: Signal) -> Windows:
    """The signal below. Windows may hang over the map's edge by the padding."""
    boxes = batch.boxes_below(node, signal.boxes)
    if isinstance(signal, Points):
        data, places = _filters(rule, signal), signal.places
    else:
        signal = signal.on_the_map(node.shape[1:])
        data, places = _transposed_windows(batch, node, rule, signal.data), signal.origins
    return Windows(signal.units, data, places * rule.stride - rule.padding, boxes)


def _filters(rule: Conv, points: Points) -> Tensor:
    """Every point's filter times its value: windows [q,h,w,C]."""
    weight, (dh, dw) = rule.weight, rule.dilation
    channels = torch.from_numpy(points.channels).to(weight.device)
    own = weight[channels].permute(0, 2, 3, 1) * points.values[:, None, None, None]
    if rule.groups == 1 and dh == dw == 1:
        return own.contiguous()
    count, kh, kw, inputs = own.shape
    size = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    data = own.new_zeros(count, *size, rule.groups, inputs)
    group = channels // (len(weight) // rule.groups)
    # Advanced indices first: [q, kh, kw, inputs] of the chosen group.
    data[torch.arange(count, device=group.device), ::dh, ::dw, group] = own
    return data.flatten(3)


def _transposed_windows(batch: Batch, node: Node, rule: Conv, data: Tensor) -> Tensor:
    """The transposed convolution of windows [q,h,w,C]."""
    if _few_channels(rule):
        filters = batch.observed.once(node, lambda: _phases(rule))
        return _by_phases(data, rule, filters)
    maps = F.conv_transpose2d(
        as_maps(data), rule.weight, None, rule.stride, 0, 0, rule.groups, rule.dilation
    )
    return pixels(maps)


def _few_channels(rule: Conv) -> bool:
    """Whether a transposed convolution is better done as a plain one, phase by phase: for it
    vectorises over the maps below, of which an image has three."""
    (kh, kw), (sh, sw) = rule.kernel, rule.stride
    taps = (-(-kh // sh) * sh) * (-(-kw // sw) * sw)
    return (
        rule.weight.shape[1] < 8
        and rule.groups == 1
        and rule.dilation == (1, 1)
        and sh * sw > 1
        and taps * 2 < kh * kw * 3
    )


def _phases(rule: Conv) -> Tensor:
    """The filters of the convolution whose maps are the phases (and maps) of the transposed one."""
    weight, (sh, sw) = rule.weight, rule.stride
    maps, inputs, kh, kw = weight.shape
    th, tw = -(-kh // sh), -(-kw // sw)  # taps of a phase
    weight = F.pad(weight, (0, tw * sw - kw, 0, th * sh - kh))
    weight = weight.view(maps, inputs, th, sh, tw, sw).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    weight = weight.reshape(sh * sw * inputs, maps, th, tw)
    return weight.contiguous(memory_format=torch.channels_last)


def _by_phases(data: Tensor, rule: Conv, filters: Tensor) -> Tensor:
    (sh, sw), (kh, kw) = rule.stride, rule.kernel
    padding = (filters.shape[2] - 1, filters.shape[3] - 1)
    phases = pixels(F.conv2d(as_maps(data), filters, padding=padding))
    whole = phases.unflatten(3, (sh, sw, -1)).transpose(2, 3)
    count, h, _, w = whole.shape[:4]
    whole = whole.reshape(count, h * sh, w * sw, -1)
    height, width = (data.shape[1] - 1) * sh + kh, (data.shape[2] - 1) * sw + kw
    return whole[:, :height, :width]


def times_derivative(batch: Batch, node: Node, function: Any, signal: Signal) -> Signal:
    """Below a function of each element by itself."""
    observed = batch.observed
    derivative = observed.once(node, lambda: _derivative(function, observed.inputs[node.index]))
    if isinstance(signal, Points):
        return replace(signal, values=signal.values * batch.at_points(derivative, signal))
    signal = signal.on_the_map(derivative.shape[1:3])
    return replace(signal, data=signal.data * batch.under_windows(derivative, signal))


def _derivative(function: Any, maps: Tensor) -> Tensor:
    """The derivative of a pointwise function at every element, as pixels."""
    with torch.enable_grad():
        source = maps.detach().requires_grad_()
        value = function(source.clone())
        (slope,) = torch.autograd.grad(value, source, torch.ones_like(value))
    return pixels(slope)


def below_pixels(batch: Batch, node: Node, rule: Lrn | Pixelwise, signal: Signal) -> Signal:
    """Below what works on each pixel by itself, all its channels together."""
    maps = batch.observed.inputs[node.index]
    if isinstance(rule, Pixelwise):
        picked = batch.observed.once(node, lambda: _picked(rule, maps))
        if picked is not None:
            return signal.into_channels(picked, maps.shape[1])
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    with torch.enable_grad():
        source = as_maps(batch.under_windows(pixels(maps), signal)).requires_grad_()
        if isinstance(rule, Lrn):
            value = ops.local_response_norm(source, rule.size, rule.alpha, rule.beta, rule.k)
        else:
            value = rule.function(source.clone())
        (below,) = torch.autograd.grad(value, source, as_maps(signal.data))
    return replace(signal, data=pixels(below))


def _picked(rule: Pixelwise, maps: Tensor) -> Ints | None:
    """Which map below each map above is a copy of, where the rule shuffles or slices; else None."""
    count = maps.shape[1]
    numbered = torch.arange(count, dtype=maps.dtype, device=maps.device).view(1, -1, 1, 1)
    picked = rule.function(numbered)[0, :, 0, 0].nan_to_num().long().clamp(0, count - 1)
    sample = torch.randn(1, count, 2, 2, dtype=maps.dtype, generator=torch.Generator())
    sample = sample.to(maps.device)
    same = torch.equal(rule.function(sample), sample[:, picked])
    return picked.cpu().numpy() if same and len(picked.unique()) == len(picked) else None


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


def sent_back(batch: Batch, node: Node, rule: PixelCopy, signal: Signal) -> Windows:
    """The signal below pixels that are copies."""
    size = batch.shape_below(node)[1:]
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, size)
    data = returned(rule, signal.data, signal.origins, origins, height, width)
    return Windows(signal.units, data, origins, boxes)


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
