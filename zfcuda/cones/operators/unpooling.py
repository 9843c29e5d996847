"""Max-unpooling by the switches of another layer's pool, and those switches as maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
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
from zfcuda.cones.operators.patches import (
    Patches,
    as_pixels,
    as_row,
    gathered,
    on_equal_windows,
    on_the_map,
    patches_at,
)
from zfcuda.cones.operators.rectangles import (
    Boxes,
    ReceptiveField,
    SlidingWindow,
    areas,
    is_empty,
    pixels_in,
)
from zfcuda.cones.operators.signals import Signal, Windows, frames, gather, table
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Pair, Switches, Unpool
from zfcuda.graph.unpooling import SwitchesOf
from zfcuda.ops.windows import on_device, pixels


def _window(rule: Switches | Unpool) -> SlidingWindow:
    return SlidingWindow(rule.kernel, rule.stride, (0, 0))


# --- switches -------------------------------------------------------------------------------------


@reached.of(Switches)
def _reached_switches(rule: Switches, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).reached(boxes, in_size, out_size)


@needed.of(Switches)
def _needed_switches(rule: Switches, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).needed(boxes, in_size, out_size)


@field.of(Switches)
def _field_of_switches(rule: Switches, below: ReceptiveField) -> ReceptiveField:
    return _window(rule).field(below)


@growth.of(Switches)
def _growth_of_switches(rule: Switches, sides: np.ndarray) -> float:
    return _window(rule).growth(sides)


@whole.of(Switches)
def _whole_switches(rule: Switches, step: Step, x: Tensor) -> Tensor:
    return SwitchesOf(rule)(x)


@patched.of(Switches)
def _patches_of_switches(
    rule: Switches, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    _, height, width, channels = bases[0].shape

    def switches(windows: Tensor, at: np.ndarray) -> Tensor:
        for axis, length in ((2, height), (3, width)):  # what hangs over the edge never wins
            places = at[:, axis - 2, None] * rule.stride[axis - 2] + np.arange(windows.shape[axis])
            beyond = on_device(places >= length, windows.device)
            if beyond.any():
                beyond = beyond[:, None, :, None] if axis == 2 else beyond[:, None, None]
                windows = windows.masked_fill(beyond, -torch.inf)
        return SwitchesOf(rule)(windows)

    window = _window(rule)
    return on_equal_windows(sources[0], bases[0], boxes, window, step.shape, channels, switches)


@below.of(Switches)
def _below_switches(rule: Switches, batch: Batch, node: Node, signal: Signal) -> Sent:
    return []  # numbers of taps have no derivative


@words.of(Switches)
def _words_of_switches(rule: Switches, node: Node) -> Naming:
    return Naming("switches", "places of maxima", "nothing", "")


# --- unpooling ------------------------------------------------------------------------------------

finishes.of(Unpool)(lambda rule: True)


@reached.of(Unpool)
def _reached(rule: Unpool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).needed(boxes, out_size, in_size)


@needed.of(Unpool)
def _needed(rule: Unpool, boxes: Boxes, in_size: Pair, out_size: Pair) -> Boxes:
    return _window(rule).reached(boxes, out_size, in_size)


@field.of(Unpool)
def _field(rule: Unpool, below: ReceptiveField) -> ReceptiveField | None:
    return _window(rule).mirrored_field(below)


@growth.of(Unpool)
def _growth(rule: Unpool, sides: np.ndarray) -> float:
    return 1.0 / (rule.stride[0] * rule.stride[1])


@words.of(Unpool)
def _words(rule: Unpool, node: Node) -> Naming:
    return Naming("max-unpooling", "by another layer's switches", "picking", "by the same switches")


@whole.of(Unpool)
def _whole(rule: Unpool, step: Step, switches: Tensor, x: Tensor) -> Tensor:
    return step.node.function(switches, x)


@patched.of(Unpool)
def _patched(
    rule: Unpool, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    stride = np.array(rule.stride)
    small = np.concatenate([boxes[:, :2] // stride, -(-boxes[:, 2:] // stride)], 1)
    small[:, 2:] = np.minimum(small[:, 2:], bases[0].shape[1:3])
    small[is_empty(boxes) | is_empty(small)] = 0
    switches, x = (
        gathered([(source, base)], small) for source, base in zip(sources, bases, strict=True)
    )
    which, (y, x0) = pixels_in(small)
    block = int(stride.prod())
    pitch = (small[:, 3] - small[:, 1]) * stride[1]
    sizes = areas(small)
    begins = (np.cumsum(sizes) - sizes) * block
    rows, columns = (y - small[which, 0]) * stride[0], (x0 - small[which, 1]) * stride[1]
    corner = begins[which] + rows * pitch[which] + columns
    out = x.new_zeros(len(x) * block, x.shape[1])
    for tap in range(rule.kernel[0] * rule.kernel[1]):
        row, column = divmod(tap, rule.kernel[1])
        place = on_device(corner + row * pitch[which] + column, out.device)
        out[place] = torch.where(switches == tap, x, 0)
    made = patches_at(as_pixels(finish(step, as_row(out))), small * np.tile(stride, 2), sources[0])
    return on_the_map(made, (0, 0), step.shape[1:])


@looks_back.of(Unpool)
def _by_switches(rule: Unpool, manner: Manner) -> bool:
    return True


@below.of(Unpool)
def _below(rule: Unpool, batch: Batch, node: Node, signal: Signal) -> Sent:
    """To the map that was unpooled; the switches, its first input, are sent nothing."""
    (kh, kw), (sh, sw) = rule.kernel, rule.stride
    switches = batch.observed.once(node, lambda: pixels(batch.observed.inputs[node.index]))
    signal = signal.as_windows(node.shape[0])
    boxes = batch.boxes_below(node, signal.boxes)
    origins, height, width = frames(boxes, batch.shape_below(node)[1:])
    data = signal.data.new_empty(len(signal.units), height * sh, width * sw, node.shape[0])
    corners = origins * np.array(rule.stride)
    rows = table(np.zeros(1, np.int64), signal, corners, height * sh, width * sw, data.device)
    gather(None, signal, rows, data)
    empty = data.new_zeros(len(data), height, width, node.shape[0])
    sent = Windows(signal.units, empty, origins, boxes)
    taps = batch.under_windows(switches, sent)
    for tap in range(kh * kw):
        row, column = divmod(tap, kw)
        own = data[:, row : height * sh : sh, column : width * sw : sw]
        empty += torch.where(taps == tap, own, 0)
    return [(node.inputs[1], sent)]
