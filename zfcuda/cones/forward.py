"""What an occluder changes, and nothing else: a step of a network inside forward cones
(:mod:`zfcuda.cones.operators.patches`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.behaviours import Step, alone, each_pixel, patched
from zfcuda.cones.operators.each_pixel import finish
from zfcuda.cones.operators.patches import Patches, as_pixels, as_row, full, room_at
from zfcuda.cones.operators.rectangles import Boxes, areas
from zfcuda.ops.windows import on_device


def advance(step: Step, sources: Sequence[Patches], bases: Sequence[Any], boxes: Boxes) -> Patches:
    """The patches that the step makes.

    Args:
        step: a local one.
        sources: its inputs' patches.
        bases: its inputs without occluder, [n,H,W,C] each, of n images, the first as its kind
            wants it (:data:`zfcuda.cones.operators.behaviours.around`); not looked at by a step
            that treats pixels alone.
        boxes: int64 [P,4], what to compute of the step's value; clipped to its maps, maybe empty.
    """
    if treats_pixels_alone(step):
        return _each_buffer(step, sources[0])
    return patched(step.rule, step, sources, bases, boxes)


def treats_pixels_alone(step: Step) -> bool:
    """Whether the step makes every pixel of the one below it, and needs nothing around it."""
    return alone(step.rule, step)


def _each_buffer(step: Step, source: Patches) -> Patches:
    """Steps that treat every pixel alone need no windows."""
    buffers = []
    for buffer in source.buffers:
        if not len(buffer):  # not every function can tell the sizes of nothing
            buffers.append(buffer.new_empty(0, step.shape[0]))
            continue
        y = as_pixels(finish(step, as_row(each_pixel(step.rule, step, buffer))))
        # A function may answer with (a part of) what it was given, but sums overwrite patches.
        same = y.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        buffers.append(y.clone(memory_format=torch.contiguous_format) if same else y.contiguous())
    return Patches(buffers, source.rows, source.apart)


def map_sums(source: Patches, base: Tensor, channels: Tensor) -> Tensor:
    """Every position's sum over one map of its image [P], float64.

    Args:
        channels: int64 [n], which map of each image of ``base`` [n,H,W,C].
    """
    image = on_device(source.rows[:, 0], base.device)
    own = base[torch.arange(len(base), device=base.device), :, :, channels]
    before = F.pad(own.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    total = before[:, -1, -1]
    y0, x0, y1, x1 = on_device(source.boxes.T.copy(), base.device)
    replaced = before[image, y1, x1] - before[image, y0, x1] - before[image, y1, x0]
    replaced += before[image, y0, x0]
    sums = total[image] - replaced + _patch_sums(source, channels[image])
    for vague in (~total.isfinite()).nonzero()[:, 0].tolist():
        # Differences of such sums tell nothing.
        _sum_up(sums, source, base, vague, int(channels[vague]))
    return sums


def _sum_up(sums: Tensor, source: Patches, base: Tensor, image: int, channel: int) -> None:
    """Write the sums over one map of an image, every pixel added."""
    members = np.flatnonzero(source.rows[:, 0] == image)
    buffers = [buffer[:, channel : channel + 1] for buffer in source.buffers]
    whole = full(Patches(buffers, source.rows[members]), base[..., channel : channel + 1].clone())
    sums[on_device(members, sums.device)] = whole.double().sum((1, 2, 3))


def _patch_sums(source: Patches, channels: Tensor) -> Tensor:
    """Every position's sum over its patch of one map [P]; ``channels`` [P] says which."""
    boxes = source.boxes
    out, windows, largest = room_at(
        [source.rows], boxes, source.buffers[0].shape[1], source.buffers
    )
    ops.gather_windows(None, source.buffers, windows[0], out, largest)
    sizes = on_device(areas(boxes), out.device)
    channel = channels.repeat_interleave(sizes, output_size=len(out))
    values = out.gather(1, channel[:, None])[:, 0].double()
    # Each position by itself, in order: a NaN must not reach the next one's, and atomic additions
    # would round differently each time. Unsafe: a GPU would be waited for to check the lengths.
    return torch.segment_reduce(values, "sum", lengths=sizes, unsafe=True)
