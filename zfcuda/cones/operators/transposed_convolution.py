"""Transposed convolution: a pixel in row i adds to the rows i * stride - padding + tap * dilation.

Rows are made ``stride`` at a time, from one multiple of it to the next (before the padding is cut
off): such a *step* of rows depends on as many pixels as any other.
"""

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
    below,
    field,
    finishes,
    folded,
    growth,
    macs,
    needed,
    patched,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.each_pixel import Sent, finish
from zfcuda.cones.operators.patches import (
    EqualWindows,
    Patches,
    on_equal_windows,
    on_the_map,
)
from zfcuda.cones.operators.rectangles import (
    Boxes,
    ReceptiveField,
    SlidingWindow,
    is_empty,
    product_of,
)
from zfcuda.cones.operators.signals import Signal, Windows, frames, gather, table
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Affine, Pair, TransposedConv
from zfcuda.ops.windows import as_maps, pixels


def _mirrored(rule: TransposedConv) -> SlidingWindow:
    """The windows of the convolution that this one is the transpose of."""
    return SlidingWindow(rule.kernel, rule.stride, rule.padding, rule.dilation)


@reached.of(TransposedConv)
def _reached(rule: TransposedConv, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _mirrored(rule).needed(boxes, out_size, in_size)


@needed.of(TransposedConv)
def _needed(rule: TransposedConv, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _mirrored(rule).reached(boxes, out_size, in_size)


@field.of(TransposedConv)
def _field(rule: TransposedConv, below: ReceptiveField) -> ReceptiveField | None:
    return _mirrored(rule).mirrored_field(below)


@growth.of(TransposedConv)
def _growth(rule: TransposedConv, sides: np.ndarray) -> float:
    sides = np.maximum(sides.mean(0), 1)
    return float(((sides / rule.stride + _overlap(rule)) / sides).prod())


@macs.of(TransposedConv)
def _macs(rule: TransposedConv) -> float:
    taps = np.array(rule.kernel) / np.array(rule.stride)
    return float(rule.weight.shape[0] / rule.groups * taps.prod())


@words.of(TransposedConv)
def _words(rule: TransposedConv, node: Node) -> Naming:
    each = (rule.weight.shape[0] // rule.groups, *rule.kernel)
    groups = f", {rule.groups} groups" if rule.groups > 1 else ""
    detail = f"{rule.channels} filters {product_of(each)}{_mirrored(rule)}{groups}"
    return Naming("transposed convolution", detail, "convolution", "the same filters, no bias")


# --- going up -------------------------------------------------------------------------------------

finishes.of(TransposedConv)(lambda rule: True)


@folded.of(TransposedConv)
def _folded(rule: TransposedConv, affine: Affine) -> TransposedConv:
    wide, dtype = torch.float64, rule.weight.dtype
    scale = affine.scale.to(wide).expand(rule.channels)
    shift = affine.shift.to(wide).expand(rule.channels)
    weight = rule.weight.to(wide).unflatten(0, (rule.groups, -1))
    weight = weight * scale.view(rule.groups, 1, -1, 1, 1)
    bias = shift if rule.bias is None else rule.bias.to(wide) * scale + shift
    return replace(rule, weight=weight.flatten(0, 1).to(dtype), bias=bias.to(dtype))


@whole.of(TransposedConv)
def _whole(rule: TransposedConv, step: Step, x: Tensor) -> Tensor:
    return _convolved(rule, x, rule.padding, rule.output_padding)


def _convolved(rule: TransposedConv, x: Tensor, padding: Pair, more: Pair) -> Tensor:
    return F.conv_transpose2d(
        x, rule.weight, rule.bias, rule.stride, padding, more, rule.groups, rule.dilation
    )


def _overlap(rule: TransposedConv) -> np.ndarray:
    """How many pixels before its own a step of rows depends on."""
    return (np.array(rule.kernel) - 1) * rule.dilation // rule.stride


@patched.of(TransposedConv)
def _patched(
    rule: TransposedConv,
    step: Step,
    sources: Sequence[Patches],
    bases: Sequence[Tensor],
    boxes: Boxes,
) -> Patches:
    stride, padding = np.array(rule.stride), np.array(rule.padding)
    overlap = _overlap(rule)
    # Of n + overlap pixels the last n steps that are whole.
    cut = overlap * stride
    more = stride - 1 - (np.array(rule.kernel) - 1) * rule.dilation % stride
    cut, more = tuple(cut.tolist()), tuple(more.tolist())

    def convolved(windows: Tensor, at: EqualWindows) -> Tensor:
        return finish(step, _convolved(rule, windows, cut, more))

    first, last = (boxes[:, :2] + padding) // stride, -(-(boxes[:, 2:] + padding) // stride)
    steps = np.concatenate([first, last], 1)
    steps[is_empty(boxes)] = 0
    size = step.shape[1:]
    shape = (step.shape[0], *-(-(np.array(size) + padding) // stride))
    window = SlidingWindow(tuple(overlap + 1), (1, 1), tuple(overlap))
    work = rule.weight.numel()
    made = on_equal_windows(
        sources[0], bases[0], steps, window, shape, work, convolved, step.value, rule.stride
    )
    return on_the_map(made, rule.padding, size)


# --- going down -----------------------------------------------------------------------------------


@below.of(TransposedConv)
def _below(rule: TransposedConv, batch: Batch, node: Node, signal: Signal) -> Sent:
    stride, reach = np.array(rule.stride), (np.array(rule.kernel) - 1) * rule.dilation + 1
    signal = signal.as_windows(node.shape[0])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, *size = frames(boxes, batch.shape_below(node)[1:])
    height, width = ((np.array(size) - 1) * stride + reach).tolist()
    data = signal.data.new_empty(len(signal.units), height, width, rule.channels)
    corners = origins * stride - rule.padding
    rows = table(np.zeros(1, np.int64), signal, corners, height, width, data.device)
    gather(None, signal, rows, data)
    maps = F.conv2d(as_maps(data), rule.weight, None, rule.stride, 0, rule.dilation, rule.groups)
    return [(node.inputs[0], Windows(signal.units, pixels(maps), origins, boxes))]
