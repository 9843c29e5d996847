"""Where cones end: the cheapest step from which whole maps are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from zfcuda.cone import forward_boxes
from zfcuda.planning.costs import BYTE, costed
from zfcuda.planning.plan import PlannedStep
from zfcuda.steps.step import Steps

_WORTH = 1.1  # predicted gain below which cones are not worth their risk


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which steps run inside cones, and on what.

    Attributes:
        steps: the network's.
        cones: by step value, the steps that run inside cones.
        boxes: by step value int64 [P,4], the rectangle each position can change.
    """

    steps: Steps
    cones: frozenset[int]
    boxes: dict[int, np.ndarray]


def boxes_of(steps: Steps, occluders: np.ndarray) -> dict[int, np.ndarray]:
    """By step value, what each occluder [P,4] can change; steps past a barrier are missing."""
    graph = steps.graph
    found = {0: occluders}
    for step in steps.steps[1:]:
        if not step.local or not all(i in found for i in step.inputs):
            continue
        sizes = [graph.nodes[i].shape[1:] for i in step.inputs]
        found[step.value] = forward_boxes(
            step.rule, [found[i] for i in step.inputs], sizes, step.shape[1:]
        )
    return found


def planned(
    steps: Steps, boxes: dict[int, np.ndarray], batch: int, element: int, force: bool
) -> tuple[Schedule, tuple[PlannedStep, ...]]:
    """The cheapest schedule: cones down to some step, whole maps from there.

    Args:
        batch: positions computed together.
        element: bytes of a number.
        force: use cones wherever possible, whatever they cost.
    """
    rows = [costed(steps, step, boxes, batch, element) for step in steps.steps[1:]]
    order = [step.value for step in steps.steps[1:]]
    cut = len(rows) if force else _cheapest_cut(steps, rows, boxes, element)
    cones = set()
    for value, row in zip(order[:cut], rows[:cut], strict=True):
        if np.isfinite(row.cone_cost):
            cones.add(value)
    chosen = tuple(
        row if value in cones else replace(row, dense=True)
        for value, row in zip(order, rows, strict=True)
    )
    return Schedule(steps, frozenset(cones), boxes), chosen


def _cheapest_cut(
    steps: Steps, rows: list[PlannedStep], boxes: dict[int, np.ndarray], element: int
) -> int:
    """How many steps to run inside cones where possible."""
    dense = np.array([row.dense_cost for row in rows])
    cones = np.array([row.cone_cost for row in rows])
    best = np.where(np.isfinite(cones), cones, dense)
    last_use = {i: at for at, step in enumerate(steps.steps[1:]) for i in step.inputs}
    # What is alive across a cut has to be written out as whole maps.
    handed = np.zeros(len(rows) + 1)
    for at, step in enumerate(steps.steps):
        if step.value in boxes and step.value in last_use:
            cost = 2 * BYTE * element * float(np.prod(step.shape))
            handed[at : last_use[step.value] + 1] += cost
    totals = [
        best[:cut].sum() + dense[cut:].sum() + handed[cut] * (cut < len(rows))
        for cut in range(len(rows) + 1)
    ]
    best_cut = int(np.argmin(totals))
    return best_cut if totals[0] > _WORTH * totals[best_cut] else 0
