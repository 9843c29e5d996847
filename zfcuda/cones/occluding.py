"""All occluder positions of some images from one base pass.

Cones first (:mod:`zfcuda.cones.forward`), whole maps where the schedule says so. Positions go in
batches, those whose rectangles are alike together, of whichever image. A position of an image is
numbered image * P + position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zfcuda.cones.forward import (
    Patches,
    advance,
    full,
    map_sums,
    occluders,
    pixels,
    treats_pixels_alone,
)
from zfcuda.cones.planning import Schedule
from zfcuda.cones.steps import Step, run
from zfcuda.graph.rules import Shape

_TAIL = 512  # positions whose vectors are worth collecting for one pass of the linear layers
# On a CPU: bytes of patches, and of one batch of maps. More together is no faster, and malloc takes
# blocks above 32 MiB from the system and gives them back every time.
_CACHED = 2**25


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model says of P positions of n images.

    Attributes:
        logits: [n,P,K], of the classes asked for.
        best: int64 [n,P], the class of the largest of all logits.
        log_total: [n,P], the logarithm of the sum of exp(logit) over all classes.
        sums: by node [n,P], the sum over one map.
    """

    logits: Tensor
    best: Tensor
    log_total: Tensor
    sums: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Base:
    """n images without occluder.

    Attributes:
        maps: by step value pixels [n,H,W,C], those that patches will be laid over.
        logits: [n,K].
        strongest: by node, the map that holds the largest activation, int64 [n], and the sum over
            it, float64 [n].
    """

    maps: dict[int, Tensor]
    logits: Tensor
    strongest: dict[int, tuple[Tensor, Tensor]]


def base_values(schedule: Schedule, images: Tensor, watched: Collection[int] = ()) -> Base:
    """One pass over ``images`` [n,C,H,W].

    Args:
        watched: the nodes whose strongest map is wanted.
    """
    steps, uses = schedule.steps, _last_uses(schedule)
    watched_by = _by_source(schedule, watched)
    needed = {*_handed_over(schedule), *watched_by}
    for step in steps.steps[1:]:
        if step.value in schedule.cones and not treats_pixels_alone(step):
            needed |= {*step.inputs}
    values: dict[int, Any] = {}
    kept: dict[int, Tensor] = {}
    strongest: dict[int, tuple[Tensor, Tensor]] = {}
    for at, step in enumerate(steps.steps):
        if at == 0:
            values[0] = images.contiguous(memory_format=torch.channels_last)
        else:
            values[step.value] = run(steps, step, values)
        if step.value in needed and (at == 0 or step.value in schedule.cones):
            kept[step.value] = pixels(values[step.value])
        for node in watched_by.get(step.value, ()):
            strongest[node] = _strongest(values[step.value])
        for used in {*step.inputs, step.value}:
            if uses.get(used, -1) <= at - 1 and used != steps.output:
                values.pop(used, None)
    return Base(kept, _checked(values[steps.output], len(images)), strongest)


def _strongest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of maps [n,C,...]: each image's with the largest element, and its sum."""
    flat = maps.reshape(*maps.shape[:2], -1)
    channels = flat.amax(2).argmax(1)
    own = flat[torch.arange(len(flat), device=flat.device), channels]
    return channels, own.double().sum(1)


def occlude_all(
    schedule: Schedule,
    base: dict[int, Tensor],
    fill: Tensor,
    images: int,
    channels: Mapping[int, Tensor],
    limit: int,
    advanced: Callable[[int], object],
    classes: Tensor | None = None,
) -> Answers:
    """Every position of every image.

    Args:
        base: the maps of the images' :func:`base_values`.
        fill: [1,H,W,C], what the occluders show.
        images: how many.
        channels: by node int64 [n], each image's map whose sum is wanted.
        limit: bytes that patches and maps of one batch may take.
        advanced: called with the number of positions done.
        classes: those whose logits to keep; None for all.
    """
    positions = len(schedule.boxes[0])
    order = (_alike_first(schedule)[:, None] + positions * np.arange(images)).ravel()
    chunk, tail = batch_sizes(schedule, limit, fill.device, fill.element_size(), images)
    answers = _Collected((images, positions), classes)
    handed: list[dict[int, Tensor]] = []
    waiting: list[np.ndarray] = []
    for begin in range(0, len(order), chunk):
        members = order[begin : begin + chunk]
        handed.append(_inside_cones(schedule, base, fill, members, channels, answers))
        waiting.append(members)
        count = sum(map(len, waiting))
        if count + chunk > tail or begin + chunk >= len(order):
            joined = {node: torch.cat([part[node] for part in handed]) for node in handed[0]}
            handed, some = [], np.concatenate(waiting)
            waiting = []
            _on_whole_maps(schedule, joined, some, channels, answers)
            advanced(count)
    return answers.result()


def images_together(schedule: Schedule, limit: int, element: int) -> int:
    """How many images of a large data set to occlude together: as many as fill a batch with
    positions, and as fit.

    Args:
        limit: bytes that their maps may take.
        element: bytes of a number.
    """
    steps = schedule.steps.steps
    held = sum(int(np.prod(s.shape)) for s in steps if s.value in {0, *schedule.cones})
    wanted = math.ceil(_TAIL / len(schedule.boxes[0]))
    return max(1, min(wanted, limit // (2 * element * held)))


def batch_sizes(
    schedule: Schedule, limit: int, device: torch.device, element: int, images: int = 1
) -> tuple[int, int]:
    """How many positions run together inside cones, and how many on whole maps.

    Args:
        limit: bytes that either may take.
        element: bytes of a number.
        images: how many have these positions.
    """
    count = images * len(schedule.boxes[0])
    cached = _CACHED if device.type == "cpu" else limit
    cones, dense, largest = _bytes_each(schedule, element)
    # Not all of it: what cones hand over is there twice while it is put together.
    together = min(_TAIL, limit // 4 // dense, cached // largest)
    most = min(together, limit // cones)
    best = min(most, cached // cones)
    batches = max(math.ceil(count / max(1, most)), round(count / max(1, best)))
    return math.ceil(count / max(1, batches)), max(1, together)


# --- the two parts --------------------------------------------------------------------------------


def _inside_cones(
    schedule: Schedule,
    base: dict[int, Tensor],
    fill: Tensor,
    members: np.ndarray,
    channels: Mapping[int, Tensor],
    answers: _Collected,
) -> dict[int, Tensor]:
    """Run the cones of these positions; returns the whole maps that the other steps take."""
    images, positions = divmod(members, len(schedule.boxes[0]))
    uses, needed = _last_uses(schedule), _handed_over(schedule)
    wanted = _by_source(schedule, channels)
    patches: dict[int, Patches] = {}
    patches[0] = occluders(fill, schedule.boxes[0][positions], images)
    whole: dict[int, Tensor] = {}

    def made(value: int) -> None:
        for node in wanted.get(value, ()):
            sums = map_sums(patches[value], base[value], channels[node])
            answers.add_sums(node, members, sums)
        if value in needed:
            whole[value] = full(patches[value], base[value])

    made(0)
    for at, step in enumerate(schedule.steps.steps[1:]):
        if step.value in schedule.cones:
            patches[step.value] = advance(
                step,
                [patches[i] for i in step.inputs],
                [base.get(i) for i in step.inputs],
                schedule.boxes[step.value][positions],
            )
            made(step.value)
        for used in {*step.inputs, step.value}:
            if uses.get(used, -1) <= at:
                patches.pop(used, None)
    return whole


def _on_whole_maps(
    schedule: Schedule,
    handed: dict[int, Tensor],
    members: np.ndarray,
    channels: Mapping[int, Tensor],
    answers: _Collected,
) -> None:
    steps, uses = schedule.steps, _last_uses(schedule)
    images = torch.from_numpy(members // len(schedule.boxes[0]))
    wanted = _by_source(schedule, channels)
    values: dict[int, Any] = dict(handed)
    for at, step in enumerate(steps.steps[1:]):
        if step.value in schedule.cones:
            continue
        if isinstance(step.rule, Shape):
            stand_ins = _stand_ins(schedule, step, len(members), handed)
            values[step.value] = run(steps, step, {**values, **stand_ins})
        else:
            values[step.value] = run(steps, step, values)
        for node in wanted.get(step.value, ()):
            own = channels[node][images.to(channels[node].device)]
            map_ = values[step.value][torch.arange(len(own), device=own.device), own]
            answers.add_sums(node, members, map_.double().reshape(len(members), -1).sum(1))
        for used in {*step.inputs, step.value}:
            if uses.get(used, -1) <= at and used != steps.output:
                values.pop(used, None)
    answers.add_logits(members, values[steps.output])


def _stand_ins(
    schedule: Schedule, step: Step, count: int, handed: dict[int, Tensor]
) -> dict[int, Tensor]:
    """For a question about a shape alone: tensors of that shape that take no memory."""
    graph = schedule.steps.graph
    like = next(iter(handed.values()))
    return {
        i: like.new_empty(()).expand(count, *graph.nodes[i].shape)
        for i in step.inputs
        if graph.nodes[i].shape is not None
    }


@dataclass(eq=False)
class _Collected:
    """Answers as they come, in any order, of (images, positions)."""

    shape: tuple[int, int]
    classes: Tensor | None
    kept: dict[str, Tensor] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)

    def add_logits(self, members: np.ndarray, logits: Tensor) -> None:
        for name, values in summary(_checked(logits, len(members)), self.classes).items():
            self._store(self.kept, name, members, values)

    def add_sums(self, node: int, members: np.ndarray, sums: Tensor) -> None:
        self._store(self.sums, node, members, sums)

    def _store(self, into: dict, key: object, members: np.ndarray, values: Tensor) -> None:
        if key not in into:
            into[key] = values.new_empty(math.prod(self.shape), *values.shape[1:])
        into[key][torch.from_numpy(members).to(values.device)] = values

    def result(self) -> Answers:
        kept = {name: values.unflatten(0, self.shape) for name, values in self.kept.items()}
        sums = {node: values.unflatten(0, self.shape) for node, values in self.sums.items()}
        return Answers(**kept, sums=sums)


def _checked(logits: Tensor, count: int) -> Tensor:
    if logits.dim() != 2 or len(logits) != count:  # a batch size is written into the model
        raise ValueError(
            f"the model must return logits [{count},K], it returned {list(logits.shape)}"
        )
    return logits


def summary(logits: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
    """What is kept of logits [...,K]: the fields of :class:`Answers` by name."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return {
        "logits": wide if classes is None else wide[..., classes.to(wide.device)],
        "best": wide.argmax(-1),
        "log_total": wide.logsumexp(-1),
    }


# --- what is needed when --------------------------------------------------------------------------


def _last_uses(schedule: Schedule) -> dict[int, int]:
    return {value: at for at, step in enumerate(schedule.steps.steps[1:]) for value in step.inputs}


def _handed_over(schedule: Schedule) -> frozenset[int]:
    """The values that leave the cones: what steps on whole maps take, and the output."""
    inside = {0, *schedule.cones}
    steps = schedule.steps
    taken = {
        value
        for step in steps.steps[1:]
        if step.value not in schedule.cones and not isinstance(step.rule, Shape)
        for value in step.inputs
        if value in inside
    }
    return frozenset(taken | ({steps.output} & inside))


def _by_source(schedule: Schedule, channels: Collection[int]) -> dict[int, list[int]]:
    """The wanted nodes by the step value they share."""
    found: dict[int, list[int]] = {}
    for node in channels:
        found.setdefault(schedule.steps.source[node], []).append(node)
    return found


def _alike_first(schedule: Schedule) -> np.ndarray:
    """Positions ordered so that neighbours have rectangles of one size, on the deepest maps
    first."""
    keys = []
    for step in schedule.steps.steps[1:]:
        if step.value in schedule.cones:
            box = schedule.boxes[step.value]
            keys += [box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]]
    return np.lexsort(keys) if keys else np.arange(len(schedule.boxes[0]))


def _bytes_each(schedule: Schedule, element: int) -> tuple[int, int, int]:
    """The most that one position holds at once: inside cones, on whole maps, and as one of them."""
    steps, uses = schedule.steps, _last_uses(schedule)
    live: dict[int, np.ndarray] = {}
    maps: dict[int, int] = {}
    most_inside, most_whole, largest = 1, 1, 1
    handed = _handed_over(schedule)
    for at, step in enumerate(steps.steps):
        size = element * int(np.prod(step.shape)) if step.shape else 0
        if at == 0 or step.value in schedule.cones:
            box = schedule.boxes[step.value]
            live[step.value] = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) * step.shape[0]
            most_inside = max(most_inside, element * int(sum(live.values()).max()))
        else:
            maps[step.value] = size
        if step.value in handed:
            maps[step.value] = size
        most_whole = max(most_whole, sum(maps.values()))
        largest = max(largest, maps.get(step.value, 0))
        for used in {*step.inputs, step.value}:
            if uses.get(used, -1) <= at - 1:
                live.pop(used, None)
                maps.pop(used, None)
    return most_inside, most_whole, largest
