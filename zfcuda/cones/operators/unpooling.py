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
    EqualWindows,
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

    def beyond(at: EqualWindows, axis: int, length: int) -> Tensor | None:
        """Which rows or columns of windows hang over the edge [p,h] or [p,w]; None if none."""
        places = at.start[:, axis, None] * rule.stride[axis] + np.arange(at.extent[axis])
        return on_device(places >= length, bases[0].device) if places.max() >= length else None

    def switches(windows: Tensor, at: EqualWindows) -> Tensor:
        for axis, length in ((0, height), (1, width)):  # what hangs over the edge never wins
            key = (step.value, "beyond", at.number, axis)
            over = sources[0].tables.once(key, lambda a=axis, n=length: beyond(at, a, n))
            if over is not None:
                over = over[:, None, :, None] if axis == 0 else over[:, None, None]
                windows = windows.masked_fill(over, -torch.inf)
        return SwitchesOf(rule)(windows)

    window, key = _window(rule), step.value
    return on_equal_windows(
        sources[0], bases[0], boxes, window, step.shape, channels, switches, key
    )


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
        gathered([(source, base)], small, (step.value, place))
        for place, (source, base) in enumerate(zip(sources, bases, strict=True))
    )
    taps = sources[0].tables.once(step.value, lambda: _places_of_taps(rule, small, x.device))
    out = x.new_zeros(len(x) * int(stride.prod()), x.shape[1])
    for tap, places in enumerate(taps):
        out[places] = torch.where(switches == tap, x, 0)
    pixels = as_pixels(finish(step, as_row(out)))
    made = patches_at(pixels, small * np.tile(stride, 2), sources[0], step.value)
    return on_the_map(made, (0, 0), step.shape[1:])


def _places_of_taps(rule: Unpool, small: Boxes, device: torch.device) -> Tensor:
    """Of each tap [k,n] where the elements of boxes ``small`` of pooled maps, one box after
    another, go in those of the unpooled maps."""
    stride = np.array(rule.stride)
    which, (y, x) = pixels_in(small)
    pitch = (small[:, 3] - small[:, 1]) * stride[1]
    sizes = areas(small)
    begins = (np.cumsum(sizes) - sizes) * int(stride.prod())
    rows, columns = (y - small[which, 0]) * stride[0], (x - small[which, 1]) * stride[1]
    corner = begins[which] + rows * pitch[which] + columns
    taps = np.divmod(np.arange(rule.kernel[0] * rule.kernel[1])[:, None], rule.kernel[1])
    return on_device(corner + taps[0] * pitch[which] + taps[1], device)


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
