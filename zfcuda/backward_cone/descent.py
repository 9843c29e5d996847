"""The way down for one batch of units: node after node, last one first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from zfcuda.backward_cone.batch import Batch
from zfcuda.backward_cone.convolution import transposed
from zfcuda.backward_cone.gradients import below_pixels, times_derivative
from zfcuda.backward_cone.pooling import spread, unpooled
from zfcuda.backward_cone.signals import Points, Signal, frames, merged
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Lrn,
    MaxPool,
    Pointwise,
)

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
            for target, below in _step(self.batch, node, signal):
                state.setdefault(target, []).append(below)
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


def _step(batch: Batch, node: Node, signal: Signal) -> list[tuple[int, Signal]]:
    """One step down: which nodes get which signals."""
    rule, below, manner = node.rule, node.inputs[0], batch.manner
    match rule:
        case Identity():
            return [(below, signal)]
        case Conv():
            return [(below, transposed(batch, node, rule, signal))]
        case MaxPool():
            return [unpooled(batch, node, rule, signal)]
        case AvgPool():
            return [(below, spread(batch, node, rule, signal))]
        case Affine():
            return [(below, signal.scaled(rule.scale))]
        case Concat():
            return _to_parts(batch, node, signal)
        case Binary():
            second = signal.copied()
            if rule.weight != 1:
                second = second.scaled(torch.tensor(rule.weight, dtype=torch.float64))
            return [(below, signal), (node.inputs[1], second)]
        case Lrn() if not manner.uses_forward_values(rule):
            return [(below, signal)]
        case Pointwise() if manner.rectifies(rule):
            return [(below, signal.rectified())]
        case Pointwise():
            return [(below, times_derivative(batch, node, rule.function, signal))]
        case _:
            return [(below, below_pixels(batch, node, rule, signal))]


def _to_parts(batch: Batch, node: Node, signal: Signal) -> list[tuple[int, Signal]]:
    """To each of the maps that were put one behind the other its channels' signal."""
    parts: list[tuple[int, Signal]] = []
    start = 0
    for source in node.inputs:
        stop = start + batch.graph.nodes[source].shape[0]
        part = signal.of_channels(start, stop)
        if part is not None:
            parts.append((source, part))
        start = stop
    return parts
