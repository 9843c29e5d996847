"""The way down for one batch of units: node after node, last one first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from zfcuda.cones.boxes import descend_boxes
from zfcuda.cones.operators.batch import Batch, Observed
from zfcuda.cones.operators.behaviours import below
from zfcuda.cones.operators.signals import (
    Ints,
    Points,
    Signal,
    Windows,
    at,
    frames,
    gather,
    merged,
    table,
)
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Affine, Identity, Lrn, Pointwise
from zfcuda.ops.windows import as_maps, on_device

State = dict[int, list[Signal]]  # by node: what its consumers have sent so far


@dataclass(frozen=True, eq=False)
class Descent:
    """The way down.

    Attributes:
        batch: the units, and the forward pass.
        limit: bytes that the batch's signals may take.
    """

    batch: Batch
    limit: int

    def run(self, state: State, top: int) -> Iterator[Signal]:
        """Carry ``state``, which has signals at no node after ``top``, down to the images. What
        arrives are disjoint sets of units, together all that reach the image."""
        nodes = self.batch.graph.nodes
        for index in range(top, 0, -1):
            if index not in state:
                continue
            node = nodes[index]
            signal = merged(state.pop(index), node.shape)
            parts = self._parts(node, signal)
            if parts > 1:
                state[index] = [signal]
                for part in _split(state, parts):
                    yield from self.run(part, index)
                return
            for target, sent in below(node.rule, self.batch, node, signal):
                state.setdefault(target, []).append(sent)
        if 0 in state:
            yield merged(state.pop(0), nodes[0].shape)

    def _parts(self, node: Node, signal: Signal) -> int:
        """Into how many parts the units must be split for this step to stay within the limit."""
        if isinstance(signal, Points) or len(signal.units) == 1:
            return 1
        channels, *size = self.batch.shape_below(node)
        _, height, width = frames(self.batch.boxes_below(node, signal.boxes), size)
        each = max(height * width * channels, signal.data[0].numel()) * signal.data.itemsize
        # Its windows before and after, what a convolution makes of them meanwhile, and what
        # waits at other nodes.
        limit = max(1, self.limit // 16)
        return min(len(signal.units), -(-len(signal.units) * each // limit))


def _split(state: State, parts: int) -> Iterator[State]:
    """The same signals for consecutive groups of units."""
    units = np.unique(np.concatenate([s.units for signals in state.values() for s in signals]))
    for group in np.array_split(units, min(parts, len(units))):
        part: State = {}
        for index, signals in state.items():
            for signal in signals:
                rows = slice(*np.searchsorted(signal.units, (group[0], group[-1] + 1)))
                if rows.start < rows.stop:
                    part.setdefault(index, []).append(signal.take(rows))
        yield part


def descend(
    observed: Observed,
    node: int,
    images: Ints,
    units: Ints,
    seed: float | None,
    limit: int,
    taps: Mapping[int, Ints] | None = None,
) -> Iterator[Windows]:
    """Carry P units of a node down to the images: what arrives there, of disjoint sets of units,
    whose ``units`` are their numbers, in any order. Those that depend on nothing are in none.

    Args:
        images: [P], which image each unit is of.
        units: [P,3], (channel, row, column); row and column are -1 for the whole map.
        seed: the signal to start from; None for the units' own values.
        limit: bytes that the signals of one batch of units may take (one unit's in any case).
        taps: what :func:`known_taps` says of them.
    """
    order = _by_size(observed.graph, node, units)
    images, units = images[order], units[order]
    known = {pool: own[order] for pool, own in (taps or {}).items()}
    descent = Descent(Batch(observed, images, known), limit)
    channels = observed.graph.nodes[0].shape[0]
    for state in _seeds(observed.outputs[node], node, images, units, seed, limit):
        for signal in descent.run(state, node):
            yield replace(signal.as_windows(channels), units=order[signal.units])


def known_taps(observed: Observed, node: int, units: Tensor) -> dict[int, Tensor]:
    """By max-pooling the taps that units [P,4], (image, channel, row, column), of a node took, as
    far as they can be told before the way down: of the first one below, if what lies between moves
    no element. They can come from a GPU together with whatever else the host is told."""
    nodes = observed.graph.nodes
    while isinstance(nodes[node].rule, _STILL):
        node = nodes[node].inputs[0]
    switches = observed.switches.get(node)
    if switches is None or observed.manner.overlap != "sum":
        return {}
    if units.device != switches.device:
        units = on_device(units.numpy(), switches.device)
    image, channel, row, column = units.unbind(1)
    return {node: switches[image, row, column, channel]}


_STILL = (Identity, Affine, Pointwise, Lrn)


def on_pictures(parts: Sequence[Windows], count: int, like: Tensor) -> Tensor:
    """So many units' signals, as :func:`descend` gives them, as whole pictures [P,C,H,W] like
    images [n,C,H,W]."""
    pictures = like.new_zeros(count, *like.shape[1:])
    for part in parts:
        part = part.cast(like.dtype).on_the_map(like.shape[2:])
        unit = on_device(part.units, like.device)
        if part.data.shape[1:3] == like.shape[2:]:
            pictures.index_copy_(0, unit, as_maps(part.data))
            continue
        rows, columns = (
            on_device(
                part.origins[:, axis, None] + np.arange(part.data.shape[1 + axis]), like.device
            )
            for axis in (0, 1)
        )
        index = (unit[:, None, None], rows[:, :, None], columns[:, None, :])
        pictures.permute(0, 2, 3, 1).index_put_(index, part.data)
    return pictures


def in_windows(
    parts: Sequence[Windows], origins: Ints, height: int, width: int, like: Tensor
) -> Tensor:
    """Of P units' signals, as :func:`descend` gives them, what lies in a window each of the image
    at ``origins`` [P,2]: [P,height,width,C], on the device and of the dtype of images ``like``
    [n,C,H,W]."""
    out = like.new_zeros(len(origins), height, width, like.shape[1])
    for part in parts:
        own, part = origins[part.units], part.cast(like.dtype)
        if part.data.shape[1:3] == (height, width) and (part.origins == own).all():
            out.index_copy_(0, on_device(part.units, out.device), part.data)
        else:
            nothing = np.zeros(1, np.int64)
            rows = table(nothing, part, own, height, width, out.device, part.units)
            gather(None, part, rows, out)
    return out


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
    rows, image, channel = on_device(np.stack([np.arange(count), images, channels]), maps.device)
    values = maps[image, channel] if seed is None else data.new_full((1, 1, 1), seed)
    as_maps(data).index_put_((rows, channel), values)
    boxes = np.tile(np.array([0, 0, *size]), (count, 1))
    return Windows(units, data, boxes[:, :2], boxes)
