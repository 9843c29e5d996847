"""Operators of several maps: one behind the other, and element by element."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.batch import Batch
from zfcuda.cones.operators.behaviours import Naming, Step, below, finishes, patched, whole, words
from zfcuda.cones.operators.each_pixel import Sent, finish
from zfcuda.cones.operators.patches import (
    Patches,
    as_pixels,
    as_row,
    covers,
    gathered,
    patches_at,
)
from zfcuda.cones.operators.rectangles import Boxes, areas
from zfcuda.cones.operators.signals import Points, Signal, at, gather, table
from zfcuda.graph.fixed import Masked
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Binary, Concat, Fixed
from zfcuda.ops.windows import pixels, window_table

finishes.of(Concat, Binary)(lambda rule: True)


@whole.of(Concat)
def _concatenated(rule: Concat, step: Step, *maps: Tensor) -> Tensor:
    return torch.cat(maps, 1)


@patched.of(Concat)
def _concatenated_patches(
    rule: Concat, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    out = gathered(list(zip(sources, bases, strict=True)), boxes, step.value)
    return patches_at(as_pixels(finish(step, as_row(out))), boxes, sources[0], step.value)


@below.of(Concat)
def _to_parts(rule: Concat, batch: Batch, node: Node, signal: Signal) -> Sent:
    """To each of the maps that were put one behind the other its channels' signal."""
    parts: Sent = []
    start = 0
    for source in node.inputs:
        stop = start + batch.graph.nodes[source].shape[0]
        part = signal.of_channels(start, stop)
        if part is not None:
            parts.append((source, part))
        start = stop
    return parts


@words.of(Concat)
def _concatenation(rule: Concat, node: Node) -> Naming:
    return Naming("concatenation", "of maps", "splitting", "each branch its maps")


# --- element by element ---------------------------------------------------------------------------


@whole.of(Binary)
def _combined(rule: Binary, step: Step, *maps: Tensor) -> Tensor:
    return rule.function(*maps)


@patched.of(Binary)
def _combined_patches(
    rule: Binary, step: Step, sources: Sequence[Patches], bases: Sequence[Tensor], boxes: Boxes
) -> Patches:
    if rule.function is torch.add:
        for own, other in ((0, 1), (1, 0)):
            alike = bases[own].shape[3] == step.shape[0] == bases[other].shape[3]
            mine = alike and step.owned[own] and sources[own].apart
            if mine and covers(sources[own], boxes):
                return _added(step, sources[own], sources[other], bases[other])
    first, second = (
        as_row(gathered([(source, base)], boxes, (step.value, place)))
        for place, (source, base) in enumerate(zip(sources, bases, strict=True))
    )
    made = as_pixels(finish(step, rule.function(first, second)))
    return patches_at(made, boxes, sources[0], step.value)


def _added(step: Step, own: Patches, other: Patches, base: Tensor) -> Patches:
    """The sum, in the memory of patches that no one else needs."""

    def over(buffer: int) -> tuple[Tensor, int] | None:
        """The windows of ``other`` at what a buffer has, and the pixels of the largest."""
        members = np.flatnonzero(own.rows[:, 1] == buffer)
        if not len(members):
            return None
        rows = own.rows[members]
        table = window_table(other.rows[members], rows[:, 4:], rows[:, 2], base.device)
        return table, int(areas(own.boxes[members]).max())

    windows = own.tables.once(step.value, lambda: [*map(over, range(len(own.buffers)))])
    for buffer, found in zip(own.buffers, windows, strict=True):
        if found is not None:
            table, largest = found
            ops.gather_windows(base, other.buffers, table, buffer, largest, add=True)
    return replace(own, buffers=[as_pixels(finish(step, as_row(each))) for each in own.buffers])


@below.of(Binary)
def _to_both(rule: Binary, batch: Batch, node: Node, signal: Signal) -> Sent:
    """Of what is linear: :func:`zfcuda.cones.observing.obstacle` lets nothing else pass."""
    sent: Sent = []
    for place, source in enumerate(node.inputs):
        taken = batch.graph.nodes[source]
        if isinstance(taken.rule, Fixed):
            continue
        own = signal if place == 0 else signal.copied()
        if rule.name not in SUMS:
            own = _weighted(rule, batch, node, own)
        elif place == 1 and rule.weight != 1:
            own = own.scaled(torch.tensor(rule.weight, dtype=torch.float64))
        sent.append((source, own.in_one_channel() if taken.shape[0] < node.shape[0] else own))
    return sent


def _weighted(rule: Binary, batch: Batch, node: Node, signal: Signal) -> Signal:
    """What goes down to the map that is multiplied with a fixed one."""
    observed = batch.observed
    weights = observed.once(node, lambda: pixels(_weights(rule, observed.inputs[node.index][:1])))
    channels = weights.shape[3]  # or one for all
    if isinstance(signal, Points):
        first = np.zeros_like(signal.channels)
        own = at(weights, first, *signal.places.T, signal.channels if channels > 1 else first)
        return replace(signal, values=signal.values * own)
    signal = signal.on_the_map(node.shape[1:])
    count, height, width = signal.data.shape[:3]
    own = weights.new_empty(count, height, width, channels)
    rows = table(np.zeros(1, np.int64), None, signal.origins, height, width, own.device)
    gather(weights, None, rows, own)
    return replace(signal, data=signal.data * own)


def _weights(rule: Binary, fixed: Tensor) -> Tensor:
    if isinstance(rule.function, Masked):
        return rule.function.kept(fixed)
    return fixed.reciprocal() if rule.name == "div" else fixed


def weights_of(graph: Graph, node: Node) -> int | None:
    """The fixed map that a node multiplies another map with; None where it does not."""
    rule = node.rule
    if not isinstance(rule, Binary) or rule.name in SUMS:
        return None
    fixed = [isinstance(graph.nodes[i].rule, Fixed) for i in node.inputs]
    if fixed == [True, False] and rule.name == "mul":
        return node.inputs[0]
    linear = rule.name in ("mul", "div") or isinstance(rule.function, Masked)
    return node.inputs[1] if fixed == [False, True] and linear else None


@words.of(Binary)
def _sum(rule: Binary, node: Node) -> Naming | None:
    kind = SUMS.get(rule.name)
    if kind is None:
        return None
    times = f", to the second times {rule.weight:g}" if abs(rule.weight) != 1 else ""
    return Naming(kind, "element by element", "copying", f"the signal to both{times}")


SUMS = {"add": "sum", "sub": "difference"}
