"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    alone,
    below,
    each_pixel,
    field,
    finishes,
    folded,
    growth,
    macs,
    needed,
    patched,
    prepared,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent, finish
from zfcuda.cones.operators.patches import (
    EqualWindows,
    Patches,
    as_pixels,
    as_row,
    on_equal_windows,
)
from zfcuda.cones.operators.rectangles import Boxes, ReceptiveField, SlidingWindow, product_of
from zfcuda.cones.operators.signals import Points, Signal, Windows
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Affine, Conv, Pair
from zfcuda.ops.windows import as_maps, on_device, pixels
from zfcuda.storage.identity import precision


def _window(rule: Conv) -> SlidingWindow:
    return SlidingWindow(rule.kernel, rule.stride, rule.padding, rule.dilation)


@reached.of(Conv)
def _reached(rule: Conv, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).reached(boxes, in_size, out_size)


@needed.of(Conv)
def _needed(rule: Conv, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).needed(boxes, in_size, out_size)


@field.of(Conv)
def _field(rule: Conv, below: ReceptiveField) -> ReceptiveField:
    return _window(rule).field(below)


@growth.of(Conv)
def _growth(rule: Conv, sides: np.ndarray) -> float:
    return _window(rule).growth(sides)


@macs.of(Conv)
def _macs(rule: Conv) -> float:
    return float(rule.weight[0].numel())


@words.of(Conv)
def _words(rule: Conv, node: Node) -> Naming:
    filters = f"{len(rule.weight)} filters {product_of(rule.weight.shape[1:])}"
    groups = f", {rule.groups} groups" if rule.groups > 1 else ""
    detail = f"{filters}{_window(rule)}{groups}"
    return Naming("convolution", detail, "transposed convolution", "the same filters, no bias")


# --- going up -------------------------------------------------------------------------------------

finishes.of(Conv)(lambda rule: True)


def by_blas(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether pixels are convolved there as one matrix product by a BLAS: on a CPU, where oneDNN
    would compile, and keep, code for every number of pixels.

    Not on a GPU, nor where a CPU multiplies other numbers for products than for convolutions:
    torch has a switch for each, by its defaults cuDNN's convolutions are TF32 and products are not,
    and patches must be rounded as the base pass around them is.
    """
    if device.type != "cpu":
        return False
    rounded = precision(device, dtype)
    return rounded.convolutions == rounded.products


class Convolution:
    """``rule`` as a function of channels_last maps, followed by a ReLU if ``relu``; over many small
    batches with the same weights.

    torch's convolution stays. Laying the weights out in oneDNN's own formats beforehand was tried
    and left out: formats differ from shape to shape of the windows, so that copies pile up, and
    batches of windows are large enough to pay for it at each call.
    """

    def __init__(self, rule: Conv, relu: bool) -> None:
        self.rule, self.relu = rule, relu
        self._weight: Tensor | None = None

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        rule = self.rule
        if self._weight is None:  # in the layout of the maps: one reordering less at every call
            self._weight = rule.weight.contiguous(memory_format=torch.channels_last)
        return self._rectified(
            F.conv2d(x, self._weight, rule.bias, rule.stride, padding, rule.dilation, rule.groups)
        )

    @property
    def per_pixel(self) -> bool:
        """Whether every pixel is convolved by itself."""
        rule = self.rule
        one = rule.kernel == (1, 1) and rule.stride == (1, 1) and rule.padding == (0, 0)
        return one and rule.groups == 1

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """The same for pixels [n,C], if it is ``per_pixel``."""
        if by_blas(pixels.device, pixels.dtype):
            return self._rectified(F.linear(pixels, self.rule.weight.flatten(1), self.rule.bias))
        return as_pixels(self(as_row(pixels), (0, 0)))

    def _rectified(self, out: Tensor) -> Tensor:
        # oneDNN could do this before the result leaves the registers, but turns NaN into zero. Of
        # NaN torch.cudnn_convolution_relu promises nothing, and it adds memory that nobody has
        # written, times zero.
        return torch.relu_(out) if self.relu else out


@prepared.of(Conv)
def _prepared(rule: Conv, step: Step) -> Step:
    relu = bool(step.then) and getattr(step.then[0], "name", None) == "relu"
    then = step.then[1:] if relu else step.then
    return replace(step, then=then, prepared=Convolution(rule, relu))


@folded.of(Conv)
def _folded(rule: Conv, affine: Affine) -> Conv:
    wide = torch.float64
    scale, shift = affine.scale.to(wide), affine.shift.to(wide)
    weight = rule.weight.to(wide) * scale.expand(len(rule.weight))[:, None, None, None]
    bias = shift if rule.bias is None else rule.bias.to(wide) * scale + shift
    dtype = rule.weight.dtype
    bias = bias.expand(len(rule.weight)).to(dtype)
    # In the layout that Convolution wants, so that it makes no copy of this one.
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    return replace(rule, weight=weight, bias=bias)


@whole.of(Conv)
def _whole(rule: Conv, step: Step, x: Tensor) -> Tensor:
    return step.prepared(x, rule.padding)


@alone.of(Conv)
def _alone(rule: Conv, step: Step) -> bool:
    return step.prepared.per_pixel


@each_pixel.of(Conv)
def _of_pixels(rule: Conv, step: Step, x: Tensor) -> Tensor:
    return step.prepared.of_pixels(x)


@patched.of(Conv)
def _patched(
    rule: Conv, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    work = rule.weight[0].numel() * step.shape[0]

    def convolved(windows: Tensor, at: EqualWindows) -> Tensor:
        return finish(step, step.prepared(windows, (0, 0)))

    return on_equal_windows(
        sources[0], bases[0], boxes, _window(rule), step.shape, work, convolved, step.value
    )


# --- going down -----------------------------------------------------------------------------------


@below.of(Conv)
def _below(rule: Conv, batch: Batch, node: Node, signal: Signal) -> Sent:
    """Windows may hang over the map's edge by the padding."""
    boxes = batch.boxes_below(node, signal.boxes)
    if isinstance(signal, Points):
        data, places = _filters(rule, signal), signal.places
    else:
        signal = signal.on_the_map(node.shape[1:])
        data, places = _transposed(batch, node, rule, signal.data), signal.origins
    origins = places * rule.stride - rule.padding
    return [(node.inputs[0], Windows(signal.units, data, origins, boxes))]


def _filters(rule: Conv, points: Points) -> Tensor:
    """Every point's filter times its value: windows [q,h,w,C]."""
    weight, (dh, dw) = rule.weight, rule.dilation
    channels = on_device(points.channels, weight.device)
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


def _transposed(batch: Batch, node: Node, rule: Conv, data: Tensor) -> Tensor:
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
