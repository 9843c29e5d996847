"""What an occluder changes, and nothing else: a step of a network inside forward cones
(:mod:`zfcuda.cones.operators.patches`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.behaviours import Step, alone, each_pixel, patched
from zfcuda.cones.operators.each_pixel import finish
from zfcuda.cones.operators.patches import (
    Patches,
    WindowsAt,
    as_pixels,
    as_row,
    full,
    some_of,
    windows_at,
)
from zfcuda.cones.operators.rectangles import Boxes, areas
from zfcuda.inference.checks import to_results
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
    return replace(source, buffers=buffers)


@dataclass(frozen=True, eq=False)
class MapSums:
    """One map of each of n images of the base pass, ready for the sums over it where patches lie.

    Attributes:
        channels: int64 [n], which map.
        before: float64 [n,H+1,W+1], the sum of what is above and left of each corner.
        vague: by image, which map it is, where differences of such sums tell nothing: it holds what
            is not finite.
    """

    channels: Tensor
    before: Tensor
    vague: dict[int, int]


def summed(maps: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, MapSums]:
    """By key, of pixels [n,H,W,C] and channels [n]. A GPU is waited for once."""
    before = {
        key: F.pad(_own(pixels, channels).double().cumsum(1).cumsum(2), (1, 0, 1, 0))
        for key, (pixels, channels) in maps.items()
    }
    if not before:
        return {}
    told = to_results(
        {
            key: torch.stack([sums[:, -1, -1].isfinite().long(), maps[key][1]])
            for key, sums in before.items()
        }
    )

    def vague(finite: list[int], channels: list[int]) -> dict[int, int]:
        return {image: channels[image] for image, known in enumerate(finite) if not known}

    return {
        key: MapSums(maps[key][1], sums, vague(*told[key].tolist())) for key, sums in before.items()
    }


def _own(pixels: Tensor, channels: Tensor) -> Tensor:
    """Of each image's pixels [n,H,W,C] the map [n,H,W] that ``channels`` [n] says."""
    return pixels[torch.arange(len(pixels), device=pixels.device), :, :, channels]


def map_sums(source: Patches, base: Tensor, sums: MapSums, key: Hashable) -> Tensor:
    """Every position's sum over the map of its image [P], float64; ``base`` [n,H,W,C]."""
    corners, windows = source.tables.once((key, "sums"), lambda: _corners(source, base.device))
    image, y0, x0, y1, x1, sizes = corners
    before = sums.before
    replaced = before[image, y1, x1] - before[image, y0, x1] - before[image, y1, x0]
    replaced += before[image, y0, x0]
    patched = _patch_sums(source, base, windows, sizes, sums.channels[image])
    found = before[image, -1, -1] - replaced + patched
    for vague, channel in sums.vague.items():
        _sum_up(found, source, base, vague, channel, key)
    return found


def _corners(source: Patches, device: torch.device) -> tuple[Tensor, WindowsAt]:
    """Every position's image, box and number of pixels, int64 [6,P], and the patches as windows."""
    boxes = source.boxes
    rows = np.concatenate([source.rows[:, :1], boxes, areas(boxes)[:, None]], 1)
    return on_device(rows.T.copy(), device), windows_at([source], boxes, device)


def _sum_up(
    found: Tensor, source: Patches, base: Tensor, image: int, channel: int, key: Hashable
) -> None:
    """Write the sums over one map of an image, every pixel added."""
    members = np.flatnonzero(source.rows[:, 0] == image)
    buffers = [buffer[:, channel : channel + 1] for buffer in source.buffers]
    own = replace(some_of(source, members), buffers=buffers)
    whole = full(own, base[..., channel : channel + 1].clone(), (key, image))
    found[on_device(members, found.device)] = whole.double().sum((1, 2, 3))


def _patch_sums(
    source: Patches, base: Tensor, windows: WindowsAt, sizes: Tensor, channels: Tensor
) -> Tensor:
    """Every position's sum over its patch of one map [P]; ``channels`` [P] says which."""
    out = base.new_empty(windows.pixels, source.buffers[0].shape[1])
    ops.gather_windows(None, source.buffers, windows.tables[0], out, windows.largest)
    channel = channels.repeat_interleave(sizes, output_size=len(out))
    values = out.gather(1, channel[:, None])[:, 0].double()
    # Each position by itself, in order: a NaN must not reach the next one's, and atomic additions
    # would round differently each time. Unsafe: a GPU would be waited for to check the lengths.
    return torch.segment_reduce(values, "sum", lengths=sizes, unsafe=True)
