"""Maps whose pixels are copies of pixels of other maps: padding, cropping, flipping, nearest
resampling (:class:`zfcuda.graph.nodes.PixelCopy`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zfcuda.graph.nodes import PixelCopy

Ints = np.ndarray  # int64


def reached(rule: PixelCopy, boxes: Ints) -> list[tuple[Ints, Ints]]:
    """On each axis the interval [start, stop) of what copies something of these boxes [P,4]."""
    return [
        _hull((boxes[:, axis, None] <= source) & (source < boxes[:, axis + 2, None]), None)
        for axis, source in enumerate((rule.rows, rule.columns))
    ]


def needed(rule: PixelCopy, boxes: Ints) -> list[tuple[Ints, Ints]]:
    """On each axis the interval [start, stop) of what is copied to these boxes [P,4]."""
    intervals = []
    for axis, source in enumerate((rule.rows, rule.columns)):
        at = np.arange(len(source))
        inside = (boxes[:, axis, None] <= at) & (at < boxes[:, axis + 2, None]) & (source >= 0)
        intervals.append(_hull(inside, source))
    return intervals


def _hull(inside: np.ndarray, values: Ints | None) -> tuple[Ints, Ints]:
    """From the first to behind the last of the values (the places, if None) that are ``inside``
    [P,size]; nothing where none is."""
    values = np.arange(inside.shape[1]) if values is None else values
    far = np.iinfo(np.int64).max
    return np.where(inside, values, far).min(1), np.where(inside, values + 1, 0).max(1)


def copied_patches(
    rule: PixelCopy, buffers: Sequence[Tensor], rows: Ints, base: Tensor, boxes: Ints
) -> Tensor:
    """The pixels [n,C] at ``boxes`` [P,4], one box after another.

    Args:
        buffers, rows: of the patches on the maps that are copied
            (:class:`zfcuda.cones.forward.Patches`).
        base: those maps without occluder, [n,H,W,C].
    """
    _, height, width, channels = base.shape
    which, y, x = _pixels(boxes)
    y, x = rule.rows[y], rule.columns[x]
    image, buffer, offset, pitch, top, left, bottom, right = rows[which].T
    empty = (y < 0) | (x < 0)
    index = (image * height + y.clip(0)) * width + x.clip(0)
    out = base.reshape(-1, channels)[_tensor(index, base)]
    inside = (buffer >= 0) & ~empty & (y >= top) & (y < bottom) & (x >= left) & (x < right)
    within = offset + (y - top) * pitch + (x - left)
    for number, pixels in enumerate(buffers):
        own = np.flatnonzero(inside & (buffer == number))
        if len(own):
            out[_tensor(own, base)] = pixels[_tensor(within[own], base)]
    if empty.any():
        out[_tensor(np.flatnonzero(empty), base)] = rule.fill
    return out


def returned(
    rule: PixelCopy, data: Tensor, origins: Ints, below: Ints, height: int, width: int
) -> Tensor:
    """The signal below, [q,height,width,C] at ``below`` [q,2]: what copies of a pixel are sent adds
    up.

    Args:
        data: the signal [q,h,w,C] in windows at ``origins`` [q,2].
    """
    count, h, w, channels = data.shape
    windows = np.concatenate([origins, origins + np.array([h, w])], 1)
    which, y, x = _pixels(windows)
    y, x = rule.rows[y], rule.columns[x]
    copies = (y >= 0) & (x >= 0)
    y, x = y - below[which, 0], x - below[which, 1]
    own = np.flatnonzero(copies & (y >= 0) & (y < height) & (x >= 0) & (x < width))
    index = (which[own] * height + y[own]) * width + x[own]
    out = data.new_zeros(count * height * width, channels)
    out.index_add_(0, _tensor(index, data), data.reshape(-1, channels)[_tensor(own, data)])
    return out.view(count, height, width, channels)


def _pixels(boxes: Ints) -> tuple[Ints, Ints, Ints]:
    """Of all pixels in these boxes, one box after another: the box's number, row and column."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = sides.prod(1)
    which = np.repeat(np.arange(len(boxes)), areas)
    place = np.arange(len(which)) - (np.cumsum(areas) - areas)[which]
    widths = sides[which, 1]
    return which, boxes[which, 0] + place // widths, boxes[which, 1] + place % widths


def _tensor(index: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(index).to(like.device)
