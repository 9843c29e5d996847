"""Signals of many units on one map: an element each (:class:`Points`) or a window each
(:class:`Windows`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.rectangles import join_boxes
from zfcuda.ops.windows import on_device, window_table

Ints = np.ndarray  # int64


def at(tensor: Tensor, *index: Ints) -> Tensor:
    """The elements with these indices, an array a dimension; broadcast, to go in one copy."""
    return tensor[on_device(np.stack(np.broadcast_arrays(*index)), tensor.device).unbind()]


@dataclass(frozen=True, eq=False)
class Points:
    """One element of a map for each of q units.

    Attributes:
        units: [q], ascending.
        channels: [q].
        places: [q,2], (row, column), on the map.
        values: [q].
    """

    units: Ints
    channels: Ints
    places: Ints
    values: Tensor

    @property
    def boxes(self) -> Ints:
        return np.concatenate([self.places, self.places + 1], 1)

    def take(self, rows: Any) -> Points:
        """Of some of the units: a slice, or an array of row numbers."""
        values = self.values[rows] if isinstance(rows, slice) else at(self.values, rows)
        return Points(self.units[rows], self.channels[rows], self.places[rows], values)

    def copied(self) -> Points:
        """The same; nothing changes a point's value in place."""
        return self

    def scaled(self, scale: Tensor) -> Points:
        """Times a number, or one per channel [C]."""
        scale = scale.to(self.values.dtype)
        if scale.numel() > 1:
            scale = at(scale.view(-1), self.channels)
        return replace(self, values=self.values * scale)

    def cast(self, dtype: torch.dtype) -> Points:
        return replace(self, values=self.values.to(dtype))

    def rectified(self) -> Points:
        return replace(self, values=self.values.clamp_min(0))

    def of_channels(self, start: int, stop: int) -> Points | None:
        """What lies in these channels, numbered from 0."""
        rows = np.flatnonzero((self.channels >= start) & (self.channels < stop))
        own = self.take(rows)
        return replace(own, channels=own.channels - start) if len(rows) else None

    def in_one_channel(self) -> Points:
        """Added up over the channels."""
        return replace(self, channels=np.zeros_like(self.channels))

    def into_channels(self, places: Ints, channels: int) -> Points:
        """Every channel in its new place among so many."""
        return replace(self, channels=places[self.channels])

    def as_windows(self, channels: int) -> Windows:
        data = self.values.new_zeros(len(self.units), 1, 1, channels)
        index = on_device(self.channels, data.device)[:, None, None, None]
        data.scatter_(3, index, self.values[:, None, None, None])
        return Windows(self.units, data, self.places, self.boxes)


@dataclass(frozen=True, eq=False)
class Windows:
    """A window of a map for each of q units.

    Attributes:
        units: [q], ascending.
        data: [q,h,w,C], this signal's own memory: :meth:`scaled` and :meth:`rectified` write there.
        origins: [q,2], (row, column) of the windows; a window may hang over the map's edge.
        boxes: [q,4], what a unit's signal is confined to, on the map; the rest of its window is
            zero, or off the map and void.
    """

    units: Ints
    data: Tensor
    origins: Ints
    boxes: Ints

    def take(self, rows: slice) -> Windows:
        return Windows(self.units[rows], self.data[rows], self.origins[rows], self.boxes[rows])

    def copied(self) -> Windows:
        return replace(self, data=self.data.clone())

    def scaled(self, scale: Tensor) -> Windows:
        """Times a number, or one per channel [C]."""
        self.data.mul_(scale.to(self.data.dtype))
        return self

    def cast(self, dtype: torch.dtype) -> Windows:
        return replace(self, data=self.data.to(dtype))

    def rectified(self) -> Windows:
        self.data.clamp_min_(0)
        return self

    def of_channels(self, start: int, stop: int) -> Windows:
        """What lies in these channels, numbered from 0."""
        return replace(self, data=self.data[..., start:stop].contiguous())

    def in_one_channel(self) -> Windows:
        """Added up over the channels."""
        return replace(self, data=self.data.sum(3, keepdim=True))

    def into_channels(self, places: Ints, channels: int) -> Windows:
        """Every channel in its new place among so many."""
        data = self.data.new_zeros(*self.data.shape[:3], channels)
        return replace(self, data=data.index_copy_(3, on_device(places, data.device), self.data))

    def as_windows(self, channels: int) -> Windows:
        return self

    def on_the_map(self, size: Sequence[int]) -> Windows:
        """The same signal in windows that lie on the map of that (height, width)."""
        extent = self.data.shape[1:3]
        if (self.origins >= 0).all() and (self.origins + extent <= size).all():
            return self
        origins, height, width = frames(self.boxes, size)
        data = self.data.new_empty(len(self.units), height, width, self.data.shape[3])
        rows = table(np.zeros(1, np.int64), self, origins, height, width, data.device)
        gather(None, self, rows, data)
        return Windows(self.units, data, origins, self.boxes)


Signal = Points | Windows


def merged(signals: list[Signal], shape: Sequence[int]) -> Signal:
    """What several consumers sent to one map of that (C,H,W), added up."""
    if len(signals) == 1:
        return signals[0]
    channels, *size = shape
    windows = [signal.as_windows(channels) for signal in signals]
    units = np.unique(np.concatenate([signal.units for signal in windows]))
    boxes = np.zeros((len(windows), len(units), 4), np.int64)
    for part, signal in zip(boxes, windows, strict=True):
        part[np.searchsorted(units, signal.units)] = signal.boxes
    joined = join_boxes(*boxes)
    origins, height, width = frames(joined, size)
    data = windows[0].data.new_zeros(len(units), height, width, channels)
    for signal in windows:
        into = np.searchsorted(units, signal.units)
        rows = table(np.zeros_like(into), signal, origins[into], height, width, data.device, into)
        gather(None, signal, rows, data, add=True)
    return Windows(units, data, origins, joined)


# --- windows of one size, and how to fill them ----------------------------------------------------


def frames(boxes: Ints, size: Sequence[int]) -> tuple[Ints, int, int]:
    """Windows of one size on the map that hold these boxes: origins [q,2], height, width."""
    extent = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(0), 1)
    return np.minimum(boxes[:, :2], np.array(size) - extent), int(extent[0]), int(extent[1])


def table(
    images: Ints,
    source: Windows | None,
    origins: Ints,
    height: int,
    width: int,
    device: Any,
    places: Ints | None = None,
) -> Tensor:
    """Rows for the window ops: from the windows of ``source`` to those at ``origins``, which are
    the first, the second, ... of the result, or its ``places``."""
    numbers = np.arange(len(origins))
    patches = np.zeros((len(origins), 8), np.int64)
    patches[:, 0] = images
    patches[:, 1] = -1
    if source is not None:
        h, w = source.data.shape[1:3]
        inside = source.boxes[:, :2] - source.origins
        filled = (source.boxes[:, 2:] > source.boxes[:, :2]).all(1)
        patches[:, 1] = np.where(filled, 0, -1)
        patches[:, 2] = np.where(filled, numbers * (h * w) + inside[:, 0] * w + inside[:, 1], 0)
        patches[:, 3] = w
        patches[:, 4:] = source.boxes
    boxes = np.concatenate([origins, origins + np.array([height, width])], 1)
    begins = (numbers if places is None else places) * (height * width)
    return window_table(patches, boxes, begins, device)


def gather(
    base: Tensor | None, source: Windows | None, rows: Tensor, out: Tensor, add: bool = False
) -> None:
    """:func:`zfcuda.ops.gather_windows` from pixels and from windows, into ``out`` [q,h,w,C]."""
    channels = out.shape[3]
    patches = [] if source is None else [source.data.reshape(-1, channels)]
    largest = out.shape[1] * out.shape[2]
    ops.gather_windows(base, patches, rows, out.view(-1, channels), largest, add=add)
