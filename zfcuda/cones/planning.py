"""What a step costs, on whole maps and inside cones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zfcuda.cones.operators.behaviours import Step, forward_boxes, macs, reads
from zfcuda.cones.profile import DeviceProfile
from zfcuda.cones.steps import Schedule
from zfcuda.graph.barriers import nature
from zfcuda.graph.pixelwise import fan_in
from zfcuda.graph.rules import Conv, Opaque
from zfcuda.storage.files import text_table, visible


@dataclass(frozen=True)
class PlannedStep:
    """One step of the plan; counts are per position.

    Attributes:
        name: the module or function.
        kind: of step; of the first step past which no cone leads what makes it global
            (:func:`zfcuda.graph.barriers.nature`); "other" for what has no name.
        maps: (channels, height, width), or fewer numbers for vectors.
        rectangle: mean (height, width) of what an occluder can change; the whole maps past a
            barrier.
        dense: whether whole maps are computed.
        dense_macs, cone_macs: multiply-adds on whole maps and inside the rectangles.
        dense_cost, cone_cost: modelled, in multiply-adds of a large convolution; a step that no
            cone can pass has an infinite cone_cost.
        call: the function's name, as torch's users write it.
        within: the module whose forward calls it, where that is not what ``name`` says.
    """

    name: str
    kind: str
    maps: tuple[int, ...]
    rectangle: tuple[float, float]
    dense: bool
    dense_macs: float
    cone_macs: float
    dense_cost: float
    cone_cost: float
    call: str = ""
    within: str = ""

    @property
    def shown(self) -> str:
        """The name, and where to look for it."""
        return f"{self.name} in {self.within}" if self.within else self.name

    @property
    def nature(self) -> str:
        """What makes it global, or else what is called."""
        return self.call if self.kind == "other" and self.call else self.kind


@dataclass(frozen=True)
class Plan:
    """What :func:`zfcuda.occlusion` will do with a model and its occluders.

    Attributes:
        method: "cone" or "dense".
        reason: why the method is "dense", or empty.
        positions: occluder positions per image.
        steps: in order; none when the model cannot be traced.
        batch: positions computed together.
        profile: of the device, from which the rest follows.
        size, stride: (height, width) of the occluder and its steps, pixels; None for positions of
            the caller's own.
    """

    method: str
    reason: str
    positions: int
    steps: tuple[PlannedStep, ...]
    batch: int
    profile: DeviceProfile
    size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    @property
    def dense_from(self) -> str | None:
        """The first step computed on whole maps, None if there is none."""
        return next((step.name for step in self.steps if step.dense), None)

    @property
    def barrier(self) -> PlannedStep | None:
        """The first step that no cone passes, if it comes before any maps; else None."""
        steps = [step for step in self.steps if np.isinf(step.cone_cost)]
        return steps[0] if any(len(step.maps) > 1 for step in steps) else None

    @property
    def ceiling(self) -> float:
        """Multiply-adds of dense passes over those of the cones, vectors' layers included: how much
        faster arithmetic alone could be. 1 when the model cannot be traced."""
        dense = sum(step.dense_macs for step in self.steps)
        tight = sum(min(step.cone_macs, step.dense_macs) for step in self.steps)
        return dense / tight if tight else 1.0

    @property
    def predicted_speedup(self) -> float:
        """Modelled cost of dense passes over that of this plan."""
        dense = sum(step.dense_cost for step in self.steps)
        chosen = sum(step.dense_cost if step.dense else step.cone_cost for step in self.steps)
        return dense / chosen if chosen else 1.0

    def __str__(self) -> str:
        head = f"{self.positions} positions{self._occluder}, {self.batch} at a time: "
        if not self.steps:
            return visible(f"{head}dense passes ({self.reason})")
        if self.method == "dense":
            why = f" ({self.reason})" if self.reason else ""
            head += f"dense passes{why}; cones would save {self.ceiling:.1f}x of the multiply-adds"
            if self.barrier is not None:
                head += f", up to {self.barrier.shown} ({self.barrier.nature})"
        else:
            head += (
                f"{self.predicted_speedup:.1f}x faster than dense passes predicted "
                f"({self.ceiling:.1f}x fewer multiply-adds)"
            )
            first = next((step for step in self.steps if step.dense), None)
            head += f", whole maps from {first.shown}" if first is not None else ""
            head += f" ({first.nature})" if first is not None and first is self.barrier else ""
        rows = [
            {
                "step": step.shown,
                "kind": step.nature,
                "maps": "x".join(map(str, step.maps)),
                "rectangle": "all" if step.dense else "{:.1f}x{:.1f}".format(*step.rectangle),
                "M MACs dense": _millions(step.dense_macs),
                "computed": _millions(step.dense_macs if step.dense else step.cone_macs),
            }
            for step in self.steps
        ]
        return f"{visible(head)}\n{visible(str(self.profile))}\n{text_table(rows)}"

    @property
    def _occluder(self) -> str:
        if self.size is None or self.stride is None:
            return ""
        (height, width), (down, right) = self.size, self.stride
        return f" of {height}x{width} pixels every {down}x{right}"


def _millions(macs: float) -> str:
    return f"{macs / 1e6:.2f}" if macs else ""


def costed(schedule: Schedule, step: Step, batch: int, element: int) -> PlannedStep:
    """What a step costs both ways.

    Args:
        batch: positions computed together.
        element: bytes of a number.
    """
    graph, boxes, profile = schedule.graph, schedule.boxes, schedule.profile
    shape = tuple(step.shape or ())
    outputs = float(np.prod(shape)) if shape else 0.0
    inputs = sum(float(np.prod(graph.nodes[i].shape or ())) for i in step.inputs)
    weights = _weights_per_output(step)
    rate = 1.0
    if isinstance(step.rule, Conv) and step.rule.groups > 1:
        rate = min(profile.depthwise, float(step.rule.groups))
    dense = outputs * weights * rate + (inputs + outputs) * element * profile.byte
    dense += profile.call / batch
    row = {
        "name": _name(step),
        "kind": _kind(schedule, step),
        "call": step.node.spelled,
        "within": "" if any(step.node.layers) or step.node.module else step.node.within,
        "maps": shape,
        "dense": False,
        "dense_macs": outputs * weights,
        "dense_cost": dense,
    }
    if step.value not in boxes:
        return PlannedStep(
            **row, rectangle=shape[1:] or (1, 1), cone_macs=outputs * weights, cone_cost=np.inf
        )
    sides = boxes[step.value][:, 2:] - boxes[step.value][:, :2]
    area = float(sides.prod(1).mean())
    computed = area * shape[0]
    changed = boxes[step.inputs[0]][:, 2:] - boxes[step.inputs[0]][:, :2]
    read = reads(step.rule, sides, changed) * sum(graph.nodes[i].shape[0] for i in step.inputs)
    cost = computed * weights * rate * profile.windowed
    cost += (2 * read + computed) * element * profile.byte + profile.cone_call / batch
    return PlannedStep(
        **row,
        rectangle=tuple(sides.mean(0).tolist()),
        cone_macs=computed * weights,
        cone_cost=cost,
    )


def _kind(schedule: Schedule, step: Step) -> str:
    if not isinstance(step.rule, Opaque):
        return type(step.rule).__name__.lower()
    first = all(i in schedule.boxes for i in step.inputs)  # not only past another barrier
    return (nature(schedule.graph, step.node) if first else "") or "other"


def _weights_per_output(step: Step) -> float:
    """Multiply-adds for each number the step makes."""
    return macs(step.rule) or float(fan_in(step.node))


def _name(step: Step) -> str:
    return next(filter(None, step.node.layers), step.node.name)


_BY_CALLS = 1.15  # what a network's calls cost, one by one, of what it takes as a whole
_WORTH = 1.1  # predicted gain below which cones are not worth their risk


def boxes_of(schedule: Schedule, occluders: np.ndarray) -> dict[int, np.ndarray]:
    """By step value, what each occluder [P,4] can change; steps past a barrier are missing."""
    nodes = schedule.graph.nodes
    found = {0: occluders}
    for step in schedule.steps[1:]:
        if step.local and all(i in found for i in step.inputs):
            sizes = [nodes[i].shape[1:] for i in step.inputs]
            found[step.value] = forward_boxes(
                step.rule, [found[i] for i in step.inputs], sizes, step.size
            )
    return found


def planned(
    schedule: Schedule, occluders: np.ndarray, element: int, force: bool
) -> tuple[Schedule, tuple[PlannedStep, ...]]:
    """The cheapest way: cones down to some step, whole maps from there.

    Args:
        schedule: the network's steps, and the device's profile.
        occluders: int64 [P,4], boxes of the image.
        element: bytes of a number.
        force: use cones wherever possible, whatever they cost.
    """
    schedule = replace(schedule, boxes=boxes_of(schedule, occluders))
    steps, batch = schedule.steps[1:], max(1, schedule.profile.positions // 4)
    rows = [costed(schedule, step, batch, element) for step in steps]
    cut = len(rows) if force else _cheapest_cut(schedule, rows, element)
    cones = frozenset(
        step.value
        for step, row in zip(steps[:cut], rows[:cut], strict=True)
        if np.isfinite(row.cone_cost)
    )
    chosen = (
        row if step.value in cones else replace(row, dense=True)
        for step, row in zip(steps, rows, strict=True)
    )
    return replace(schedule, cones=cones), tuple(chosen)


def _cheapest_cut(schedule: Schedule, rows: list[PlannedStep], element: int) -> int:
    """How many steps to run inside cones where possible."""
    dense = np.array([row.dense_cost for row in rows])
    cones = np.array([row.cone_cost for row in rows])
    place = {step.value: at for at, step in enumerate(schedule.steps)}
    # What is alive across a cut has to be written out as whole maps.
    handed = np.zeros(len(rows) + 1)
    for at, step in enumerate(schedule.steps):
        if step.value in schedule.boxes:
            cost = 2 * schedule.profile.byte * element * float(np.prod(step.shape))
            handed[at : place[schedule.last_takers[step.value]]] += cost
    # Whole maps past a barrier are made call by call, not as the model itself makes them.
    barred = any(np.isinf(row.cone_cost) and np.prod(row.maps[1:]) > 1 for row in rows)
    whole = dense * (_BY_CALLS if barred else 1.0)
    best = np.where(np.isfinite(cones), cones, whole)
    totals = [
        best[:cut].sum() + whole[cut:].sum() + handed[cut] * (cut < len(rows))
        for cut in range(len(rows) + 1)
    ]
    totals[0] = dense.sum()
    best_cut = int(np.argmin(totals))
    return best_cut if totals[0] > _WORTH * totals[best_cut] else 0
