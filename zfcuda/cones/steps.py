"""A graph's passes over memory, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from zfcuda.cones.operators.behaviours import Step, finishes, folded, prepared, whole
from zfcuda.cones.operators.each_pixel import finish
from zfcuda.cones.profile import AVX512, DeviceProfile
from zfcuda.graph.nodes import Graph, Node, last_takers, released
from zfcuda.graph.pixelwise import Linear, linear
from zfcuda.graph.rules import Affine, Identity, MaxPool, Pointwise


@dataclass(frozen=True, eq=False)
class Schedule:
    """All of a graph's steps in order, and which of them run inside cones, on what.

    Attributes:
        source: for every node, whose value it shares.
        boxes: by step value int64 [P,4], the rectangle that each of P occluders can change; steps
            past a barrier are missing.
        cones: by step value, the steps that run inside cones.
        profile: of the device that this is planned for.
    """

    graph: Graph
    steps: tuple[Step, ...]
    source: Mapping[int, int]
    boxes: Mapping[int, np.ndarray] = field(default_factory=dict)
    cones: frozenset[int] = frozenset()
    profile: DeviceProfile = AVX512

    @property
    def output(self) -> int:
        return self.source[self.graph.output]

    @cached_property
    def last_takers(self) -> dict[int, int]:
        """See :func:`last_takers`; by value, the value of a step."""
        return last_takers((step.value, step.inputs) for step in self.steps)

    @cached_property
    def released(self) -> dict[int, list[int]]:
        """By step, the values that no later step takes; the output stays."""
        return released(self.last_takers, {self.output})

    @cached_property
    def handed_over(self) -> frozenset[int]:
        """The values that leave the cones: what steps on whole maps take, and the output."""
        inside = {0, *self.cones}
        taken = {
            value
            for step in self.steps[1:]
            if step.value not in self.cones and not step.counts_only
            for value in step.inputs
        }
        return frozenset((taken | {self.output}) & inside)

    @cached_property
    def alike_first(self) -> np.ndarray:
        """int64 [P], positions ordered so that neighbours have rectangles of one size, on the
        deepest maps first."""
        keys = []
        for step in self.steps[1:]:
            if step.value in self.cones:
                box = self.boxes[step.value]
                keys += [box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]]
        return np.lexsort(keys) if keys else np.arange(len(self.boxes[0]))

    @cached_property
    def numbers_each(self) -> tuple[int, int, int]:
        """The most numbers that one position holds at once: inside cones, on whole maps, and as one
        of them."""
        live: dict[int, np.ndarray] = {}
        maps: dict[int, int] = {}
        most_inside, most_whole, largest = 1, 1, 1
        for at, step in enumerate(self.steps):
            value = step.value
            inside = at == 0 or value in self.cones
            if inside:
                box = self.boxes[value]
                live[value] = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) * step.shape[0]
                most_inside = max(most_inside, int(sum(live.values()).max()))
            if value in self.handed_over or not inside:
                maps[value] = int(np.prod(step.shape)) if step.shape else 0
            most_whole = max(most_whole, sum(maps.values()))
            largest = max(largest, maps.get(value, 0))
            for done in self.released.get(value, ()):
                live.pop(done, None)
                maps.pop(done, None)
        return most_inside, most_whole, largest


def fuse(graph: Graph, wanted: Collection[int] = ()) -> Schedule:
    """The graph's steps, such that the value of every ``wanted`` node is made by some step; none
    inside cones yet."""
    kept = {*wanted, graph.output}
    source: dict[int, int] = {}
    made: dict[int, Step] = {}  # by value
    for node in graph.nodes:
        if isinstance(node.rule, Identity):
            source[node.index] = source[node.inputs[0]]
            continue
        inputs = tuple(source[i] for i in node.inputs)
        step = Step(node.index, node, node.rule, inputs, (), node.shape)
        before = made.get(inputs[0]) if inputs else None
        if before is not None and _only_for(graph, node, kept):
            if isinstance(step.rule, MaxPool) and _ends_in_relu(before):
                made[before.value] = replace(before, then=before.then[:-1])
                step = replace(step, rule=replace(step.rule, relu=True))
            elif (joined := _joined(before, step)) is not None:
                del made[before.value]
                step = joined
        source[node.index] = step.value
        made[step.value] = step
    shared = {0, *(source[node] for node in kept)}
    taken = Counter(value for step in made.values() for value in step.inputs)
    return Schedule(
        graph,
        tuple(
            replace(
                prepared(made[value].rule, made[value]),
                owned=tuple(taken[i] == 1 and i not in shared for i in made[value].inputs),
            )
            for value in sorted(made)
        ),
        source,
    )


def _ends_in_relu(step: Step) -> bool:
    return bool(step.then) and getattr(step.then[-1], "name", None) == "relu"


def _only_for(graph: Graph, node: Node, kept: Collection[int]) -> bool:
    """Whether the node's first input, through identities, has no other use."""
    index = node.inputs[0]
    user = node.index
    while True:
        if index in kept or graph.consumers[index] != (user,):
            return False
        if not isinstance(graph.nodes[index].rule, Identity):
            return True
        index, user = graph.nodes[index].inputs[0], index


def _joined(before: Step, step: Step) -> Step | None:
    """Both steps as one, if one pass can do them."""
    rule = step.rule
    if isinstance(rule, Affine) and not before.then:
        both = folded(before.rule, rule)
        if both is not None:
            return replace(before, value=step.value, rule=both, shape=step.shape)
    if isinstance(rule, Affine | Pointwise) and finishes(before.rule):
        return replace(before, value=step.value, then=(*before.then, rule), shape=step.shape)
    return None


def run(schedule: Schedule, step: Step, values: Mapping[int, Any]) -> Any:
    """The step's value for a batch, from the values of its inputs (by node)."""
    called = step.node.function
    if isinstance(called, Linear):
        return linear(values[step.inputs[0]], called.weight, called.bias)
    if not step.local:
        return schedule.graph.evaluate(step.node, Values(schedule.source, values))
    return finish(step, whole(step.rule, step, *(values[i] for i in step.inputs)))


class Values(Mapping[int, Any]):
    """Values by any node, looked up where the value is kept."""

    def __init__(self, source: Mapping[int, int], values: Mapping[int, Any]) -> None:
        self._source, self._values = source, values

    def __getitem__(self, node: int) -> Any:
        return self._values[self._source[node]]

    def __iter__(self) -> Iterator[int]:
        return (node for node in self._source if self._source[node] in self._values)

    def __len__(self) -> int:
        return sum(1 for _ in self)
