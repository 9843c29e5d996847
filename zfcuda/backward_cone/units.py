"""Many units: from their places to patches of the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from zfcuda.backward_cone.batch import Batch
from zfcuda.backward_cone.descent import Descent, State
from zfcuda.backward_cone.forward_pass import Observed
from zfcuda.backward_cone.signals import Ints, Points, Signal, Windows, as_maps, at
from zfcuda.cone import descend_boxes
from zfcuda.graph.nodes import Graph


@dataclass(frozen=True, eq=False)
class Projected:
    """A unit on the image: ``patch`` [C,h,w] at ``box`` (y0, x0, y1, x1)."""

    box: tuple[int, int, int, int]
    patch: Tensor


def descend(
    observed: Observed, node: int, images: Ints, units: Ints, seed: float | None, limit: int
) -> Iterator[tuple[int, Projected]]:
    """Carry units of a node down to the images; in any order, with their numbers.

    Args:
        images: [P], which image each unit is of.
        units: [P,3], (channel, row, column); row and column are -1 for the whole map.
        seed: the signal to start from; None for the units' own values.
        limit: bytes that the signals of one batch of units may take (one unit's in any case).
    """
    order = _by_size(observed.graph, node, units)
    images, units = images[order], units[order]
    descent = Descent(Batch(observed, images), limit)
    for state in _seeds(observed.outputs[node], node, images, units, seed, limit):
        for signal in descent.run(state, node):
            for unit, projected in _patches(signal, observed.graph.nodes[0].shape):
                yield int(order[unit]), projected


def _by_size(graph: Graph, node: int, units: Ints) -> Ints:
    """The units in an order in which those whose cones are of one size go together: near the edge
    they are smaller, and a batch's windows are as large as its largest cone."""
    boxes = np.concatenate([units[:, 1:], units[:, 1:] + 1], 1)
    cones = descend_boxes(graph, graph.nodes[node], boxes).get(0)
    if cones is None:
        return np.arange(len(units))
    return np.lexsort((cones[:, 3] - cones[:, 1], cones[:, 2] - cones[:, 0]))


def _seeds(
    maps: Tensor, node: int, images: Ints, units: Ints, seed: float | None, limit: int
) -> Iterator[State]:
    points = np.flatnonzero(units[:, 1] >= 0)
    if len(points):
        channels, places = units[points, 0], units[points, 1:]
        values = at(maps, images[points], channels, *places.T)
        if seed is not None:
            values = values.new_full(values.shape, seed)
        yield {node: [Points(points, channels, places, values)]}
    whole = np.flatnonzero(units[:, 1] < 0)
    for group in np.array_split(whole, -(-len(whole) * maps[0].nbytes // limit) or 1):
        if len(group):
            yield {node: [_whole_maps(maps, group, images[group], units[group, 0], seed)]}


def _whole_maps(
    maps: Tensor, units: Ints, images: Ints, channels: Ints, seed: float | None
) -> Windows:
    count, size = len(units), maps.shape[2:]
    data = maps.new_zeros(count, *size, maps.shape[1])
    for row, (image, channel) in enumerate(zip(images, channels, strict=True)):
        data[row, :, :, channel] = maps[image, channel] if seed is None else seed
    boxes = np.tile(np.array([0, 0, *size]), (count, 1))
    return Windows(units, data, boxes[:, :2], boxes)


def _patches(signal: Signal, shape: Sequence[int]) -> Iterator[tuple[Any, Projected]]:
    signal = signal.as_windows(shape[0])
    starts = signal.boxes[:, :2] - signal.origins
    stops = signal.boxes[:, 2:] - signal.origins
    maps = as_maps(signal.data)
    for row, (unit, box) in enumerate(zip(signal.units, signal.boxes, strict=True)):
        (y0, x0), (y1, x1) = starts[row], stops[row]
        patch = maps[row, :, y0:y1, x0:x1] if y0 < y1 and x0 < x1 else maps[row, :, :0, :0]
        yield unit, Projected(tuple(box.tolist()), patch)
