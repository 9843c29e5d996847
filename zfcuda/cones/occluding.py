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

from zfcuda.cones.forward import MapSums, advance, map_sums, summed, treats_pixels_alone
from zfcuda.cones.operators.behaviours import Step, around
from zfcuda.cones.operators.patches import Kept, Patches, Tables, full, occluders
from zfcuda.cones.steps import Schedule, run
from zfcuda.ops.windows import on_device, pixels

Answers = dict[str | int, Tensor]
"""By name what is kept of the logits (:func:`summary`), by node the sums over one map; of every
position, [n*P,...] while they come in, [n,P,...] in the end."""


@dataclass(frozen=True, eq=False)
class Base:
    """What a pass without occluder over n images leaves for their positions.

    Attributes:
        maps: by step value, as pixels [n,H,W,C], those that patches will be laid over.
        around: by step value, what the step takes of the maps below
            (:data:`zfcuda.cones.operators.behaviours.around`).
        sums: by watched node inside cones, what sums over its strongest map are made from.
    """

    maps: dict[int, Tensor] = field(default_factory=dict)
    around: dict[int, list[Any]] = field(default_factory=dict)
    sums: dict[int, MapSums] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        """Make what the step takes, of maps that are there."""
        if not treats_pixels_alone(step):
            first, *others = (self.maps[i] for i in step.inputs)
            self.around[step.value] = [around(step.rule, first), *others]


def base_values(
    schedule: Schedule, images: Tensor, watched: Collection[int] = ()
) -> tuple[Tensor, Base, dict[int, tuple[Tensor, Tensor]]]:
    """One pass over ``images`` [n,C,H,W] without occluder.

    Args:
        watched: the nodes whose strongest map is wanted.

    Returns:
        The logits [n,K]; what their positions need; by watched node the map that holds the largest
        activation, int64 [n], and the sum over it, float64 [n].
    """
    watched_by = _by_source(schedule, watched)
    needed = {*schedule.handed_over, *watched_by}
    for step in schedule.steps[1:]:
        if step.value in schedule.cones and not treats_pixels_alone(step):
            needed |= {*step.inputs}
    values: dict[int, Any] = {}
    base = Base()
    strongest: dict[int, tuple[Tensor, Tensor]] = {}
    for at, step in enumerate(schedule.steps):
        if at == 0:
            values[0] = images.contiguous(memory_format=torch.channels_last)
        else:
            values[step.value] = run(schedule, step, values)
        if step.value in needed and (at == 0 or step.value in schedule.cones):
            base.maps[step.value] = _as_pixels(values[step.value])
        if step.value in schedule.cones:
            base.add(step)
        for node in watched_by.get(step.value, ()):
            strongest[node] = _strongest(values[step.value])
        for value in schedule.released.get(step.value, ()):
            del values[value]
    inside = {0, *schedule.cones}
    maps = {
        node: (base.maps[value], strongest[node][0])
        for value, nodes in watched_by.items()
        for node in nodes
        if value in inside
    }
    base.sums.update(summed(maps))
    return _checked(values[schedule.output], len(images)), base, strongest


def _as_pixels(value: Tensor) -> Tensor:
    """Maps [n,C,H,W] as pixels; vectors [n,C] as pixels of maps of one."""
    return pixels(value) if value.dim() == 4 else value[:, None, None].contiguous()


def _strongest(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Of maps [n,C,...]: each image's with the largest element, and its sum."""
    flat = maps.reshape(*maps.shape[:2], -1)
    channels = flat.amax(2).argmax(1)
    own = flat[torch.arange(len(flat), device=flat.device), channels]
    return channels, own.double().sum(1)


def occlude_all(
    schedule: Schedule,
    base: Base,
    fill: Tensor,
    images: int,
    channels: Mapping[int, Tensor],
    limit: int,
    advanced: Callable[[int], object],
    classes: Tensor | None = None,
    kept: Kept | None = None,
) -> Answers:
    """Every position of every image: what the model says, and the sums over ``channels``.

    Args:
        base: of the images' :func:`base_values`.
        fill: [1,H,W,C], what the occluders show.
        images: how many.
        channels: by node int64 [n], each image's map whose sum is wanted.
        limit: bytes that patches and maps of one batch may take.
        advanced: called with the number of positions done.
        classes: those whose logits to keep; None for all.
        kept: the tables of calls of this schedule and limit, which takes further ones.
    """
    positions = len(schedule.boxes[0])
    order = (schedule.alike_first[:, None] + positions * np.arange(images)).ravel()
    chunk, tail = batch_sizes(schedule, limit, fill.element_size(), images)
    kept = Kept(0) if kept is None else kept
    answers: Answers = {}

    def store(members: Tensor, some: Mapping[str | int, Tensor]) -> None:
        for key, values in some.items():
            if key not in answers:
                answers[key] = values.new_empty(len(order), *values.shape[1:])
            answers[key][members] = values

    handed: list[dict[int, Tensor]] = []
    waiting: list[Tensor] = []  # numbers of positions
    for begin in range(0, len(order), chunk):
        tables = kept.of((images, begin), schedule.profile)
        some = order[begin : begin + chunk]
        members = tables.once("members", lambda some=some: on_device(some, fill.device))
        whole, sums = _inside_cones(schedule, base, fill, some, tables)
        store(members, sums)
        handed.append(whole)
        waiting.append(members)
        count = sum(map(len, waiting))
        if count + chunk > tail or begin + chunk >= len(order):
            joined = {node: torch.cat([part[node] for part in handed]) for node in handed[0]}
            handed, whole, members = [], {}, torch.cat(waiting)
            waiting = []
            logits, sums = _on_whole_maps(schedule, joined, members, channels)
            store(members, sums | summary(logits, classes))
            advanced(count)
    return {key: values.unflatten(0, (images, positions)) for key, values in answers.items()}


def images_together(schedule: Schedule, limit: int, element: int) -> int:
    """How many images of a large data set to occlude together: as many as fill a batch with
    positions, and as fit.

    Args:
        limit: bytes that their maps may take.
        element: bytes of a number.
    """
    if schedule.graph.mixes:
        return 1
    held = sum(int(np.prod(s.shape)) for s in schedule.steps if s.value in {0, *schedule.cones})
    wanted = math.ceil(schedule.profile.positions / len(schedule.boxes[0]))
    return max(1, min(wanted, limit // (2 * element * held)))


def batch_sizes(schedule: Schedule, limit: int, element: int, images: int = 1) -> tuple[int, int]:
    """How many positions run together inside cones, and how many on whole maps.

    Args:
        limit: bytes that either may take.
        element: bytes of a number.
        images: how many have these positions.
    """
    if schedule.graph.mixes:
        return 1, 1
    count = images * len(schedule.boxes[0])
    cached = schedule.profile.cached or limit
    cones, dense, largest = (element * numbers for numbers in schedule.numbers_each)
    # Not all of it: what cones hand over is there twice while it is put together.
    together = min(schedule.profile.positions, limit // 4 // dense, cached // largest)
    most = min(together, limit // cones)
    best = min(most, cached // cones)
    batches = max(math.ceil(count / max(1, most)), round(count / max(1, best)))
    return math.ceil(count / max(1, batches)), max(1, together)


# --- the two parts --------------------------------------------------------------------------------


def _inside_cones(
    schedule: Schedule,
    base: Base,
    fill: Tensor,
    members: np.ndarray,
    tables: Tables,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Run the cones of these positions: the whole maps that the other steps take, and by node the
    sums [p] over its map."""
    images, positions = divmod(members, len(schedule.boxes[0]))
    wanted = _by_source(schedule, base.sums)
    patches: dict[int, Patches] = {}
    whole: dict[int, Tensor] = {}
    sums: dict[int, Tensor] = {}
    for at, step in enumerate(schedule.steps):
        value = step.value
        if at == 0:
            patches[0] = occluders(fill, schedule.boxes[0][positions], images, tables)
        elif value in schedule.cones:
            patches[value] = advance(
                step,
                [patches[i] for i in step.inputs],
                base.around.get(value, ()),
                schedule.boxes[value][positions],
            )
        if value in patches:
            for node in wanted.get(value, ()):
                sums[node] = map_sums(patches[value], base.maps[value], base.sums[node], node)
            if value in schedule.handed_over:
                maps = full(patches[value], base.maps[value], value)
                whole[value] = maps if len(step.shape) == 3 else maps.flatten(1)
        for done in schedule.released.get(value, ()):
            patches.pop(done, None)
    return whole, sums


def _on_whole_maps(
    schedule: Schedule,
    handed: dict[int, Tensor],
    members: np.ndarray,
    channels: Mapping[int, Tensor],
) -> tuple[Tensor, dict[int, Tensor]]:
    """The other steps: the logits [p,K], and by node the sums [p] over its map."""
    images = members // len(schedule.boxes[0])
    wanted = _by_source(schedule, channels)
    values: dict[int, Any] = dict(handed)
    sums: dict[int, Tensor] = {}
    for step in schedule.steps[1:]:
        if step.value in schedule.cones:
            continue
        if step.counts_only:
            stand_ins = _stand_ins(schedule, step, len(members), handed)
            values[step.value] = run(schedule, step, {**values, **stand_ins})
        else:
            values[step.value] = run(schedule, step, values)
        for node in wanted.get(step.value, ()):
            own = channels[node][images]
            map_ = values[step.value][torch.arange(len(own), device=own.device), own]
            sums[node] = map_.double().reshape(len(members), -1).sum(1)
        for value in schedule.released.get(step.value, ()):
            values.pop(value, None)
    return _checked(values[schedule.output], len(members)), sums


def _stand_ins(
    schedule: Schedule, step: Step, count: int, handed: dict[int, Tensor]
) -> dict[int, Tensor]:
    """For a question about a shape alone: tensors of that shape that take no memory."""
    like = next(iter(handed.values()))
    return {
        i: like.new_empty(()).expand(count, *schedule.graph.nodes[i].shape)
        for i in step.inputs
        if schedule.graph.nodes[i].shape is not None
    }


def _checked(logits: Tensor, count: int) -> Tensor:
    if logits.dim() != 2 or len(logits) != count:  # a batch size is written into the model
        raise ValueError(
            f"the model must return logits [{count},K], it returned {list(logits.shape)}"
        )
    return logits


def summary(logits: Tensor, classes: Tensor | None) -> dict[str, Tensor]:
    """What is kept of logits [...,K], as :class:`zfcuda.results.occlusion.OcclusionResult` has it:
    all of them, or those of ``classes`` with the most probable class and the logarithm of the sum
    of exp(logit) over all."""
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if classes is None:
        return {"logits": wide}
    return {
        "logits": wide[..., classes.to(wide.device)],
        "best": wide.argmax(-1),
        "log_total": wide.logsumexp(-1),
    }


# --- what is needed when --------------------------------------------------------------------------


def _by_source(schedule: Schedule, channels: Collection[int]) -> dict[int, list[int]]:
    """The wanted nodes by the step value they share."""
    found: dict[int, list[int]] = {}
    for node in channels:
        found.setdefault(schedule.source[node], []).append(node)
    return found
