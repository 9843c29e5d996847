"""Every image of a data set moved, enlarged and turned (Zeiler & Fergus 2014, section 4.1)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.data.images import Images, numbered
from zfcuda.experiments.invariance.experiment import (
    Values,
    early_and_late,
    families_of,
    invariance_study,
)
from zfcuda.experiments.over import Run, Table, first_readable, identity_of, targets_of
from zfcuda.inference.checks import device_of, fill_setting
from zfcuda.inference.layers import Layers, find_layers
from zfcuda.inference.passes import memory_limit
from zfcuda.results.base import Outputs, probabilities_of
from zfcuda.results.invariance import InvarianceStudy, InvarianceSummary
from zfcuda.storage.ranks import current_shard


@dataclass(eq=False)
class Moments:
    """Mean and standard deviation of arrays as they come (Welford 1962), each element by itself;
    what is not finite is left out."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def like(cls, values: Tensor) -> Moments:
        return cls(*(torch.zeros_like(values) for _ in range(3)))

    def add(self, values: Tensor) -> None:
        finite = values.isfinite()
        self.count += finite
        step = torch.where(finite, values - self.mean, 0)
        self.mean += step / self.count.clamp_min(1)
        self.squares += torch.where(finite, step * (values - self.mean), 0)

    def average(self) -> Tensor:
        return torch.where(self.count > 0, self.mean, math.nan)

    def spread(self) -> Tensor:
        return torch.where(
            self.count > 1, (self.squares / (self.count - 1).clamp_min(1)).sqrt(), math.nan
        )


def of_one(study: InvarianceStudy, index: int, number: int) -> InvarianceSummary:
    """One image's part of a study."""
    first = next(iter(study.experiments.values()))
    base = first.base_logits[index].double()
    target = first.target[index : index + 1]
    values, distances, probabilities, unchanged = {}, {}, {}, {}
    for family, found in study.experiments.items():
        own = found.values.double()
        values[family] = own.sum(1) if own.dim() == 2 else own  # one of a pair is 0
        distances[family] = torch.stack(
            [found.relative_distances(layer)[index].double() for layer in study.layers]
        )
        probabilities[family] = found.target_probability[index].double()
        stays = found.unchanged[index].double()
        unchanged[family] = _unknown(stays) if found.outputs == "value" else stays
    return InvarianceSummary(
        names=(study.names[index],),
        numbers=torch.tensor([number]),
        target=target,
        base=probabilities_of(base, first.outputs)[target],
        layers=study.layers,
        values=values,
        distances=distances,
        distance_spread={family: _unknown(own) for family, own in distances.items()},
        probabilities=probabilities,
        probability_spread={family: _unknown(own) for family, own in probabilities.items()},
        unchanged=unchanged,
        undefined=int(any(not bool(own.isfinite().all()) for own in distances.values())),
        outputs=first.outputs,
        precision=first.precision,
    )


def _unknown(values: Tensor) -> Tensor:
    return torch.full_like(values, math.nan)


# --- of many ------------------------------------------------------------------------------------


# By field of the summary of many, of which field of each single one it is what moment.
_AVERAGED = {
    "distances": ("distances", "average"),
    "distance_spread": ("distances", "spread"),
    "probabilities": ("probabilities", "average"),
    "probability_spread": ("probabilities", "spread"),
    "unchanged": ("unchanged", "average"),
}


_TOGETHER = 16  # images of a group; their transformed copies fill the batches


@torch.inference_mode(False)  # nothing made here is an inference tensor
def invariance_over(
    model: nn.Module,
    images: Images | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    layers: Layers | None = None,
    target: int | Sequence[int] | Tensor | None = None,
    transformations: Mapping[str, Values] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    max_memory: int | None = None,
    workers: int = 0,
    progress: bool = False,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> InvarianceSummary | None:
    """Every image of a data set moved, enlarged and turned: figure 5 of the paper, of all images.

    A run like :func:`zfcuda.occlusion_over`: a result a file, stopped at any moment and gone on
    with, shared by the processes of ``torchrun``.

    Args:
        model, layers, transformations, fill: as :func:`zfcuda.invariance_study`.
        images, target, max_memory, workers, progress, about, outputs: as
            :func:`zfcuda.occlusion_over`; for the paper's figure ``target`` is each image's true
            class.
        folder: of the run. ``images`` gets each image's own :class:`InvarianceSummary` (of one
            image), NUMBER-NAME.npz and .json; ``summary`` is what is returned; ``images.csv`` and
            ``curves.csv`` are its tables.

    Returns:
        The summary; None in all processes but the first.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.invariance_study` and :func:`zfcuda.occlusion_over`.
    """
    study = {"layers": layers, "fill": fill, "max_memory": max_memory, "outputs": outputs}
    study["transformations"] = transformations
    with invariance_run(model, images, folder, target, about, **study) as run:
        run.carry_out(workers, progress)
        return run.summary()


@dataclass(frozen=True, eq=False)
class InvarianceRun(Run[InvarianceSummary, InvarianceSummary]):
    """What :func:`invariance_over` does, in its parts; ``study``: the arguments of
    :func:`zfcuda.invariance_study` that all images share."""

    kind = InvarianceSummary
    model: nn.Module
    study: Mapping[str, Any]

    def answer(
        self, x: Tensor, numbers: list[int], target: Tensor | None
    ) -> list[InvarianceSummary]:
        x, names = x.to(device_of(self.model)), [self.images.names[number] for number in numbers]
        found = invariance_study(self.model, x, target=target, names=names, **self.study)
        return [of_one(found, index, number) for index, number in enumerate(numbers)]

    def summarised(
        self, results: Iterator[tuple[int, InvarianceSummary]], skipped: Sequence[str]
    ) -> InvarianceSummary:
        """The summaries of single images as one; one in memory at a time."""
        moments: dict[str, dict[str, Moments]] = {of: {} for of, _ in _AVERAGED.values()}
        names: list[str] = []
        columns: dict[str, list[Tensor]] = {"numbers": [], "target": [], "base": []}
        undefined = 0
        for _, one in results:
            for quantity, families in moments.items():
                for family in one.values:
                    own = getattr(one, quantity)[family]
                    families.setdefault(family, Moments.like(own)).add(own)
            names += one.names
            undefined += one.undefined
            for name, column in columns.items():
                column.append(getattr(one, name))

        found: dict[str, dict[str, Tensor]] = {
            name: {family: getattr(own, value)() for family, own in moments[quantity].items()}
            for name, (quantity, value) in _AVERAGED.items()
        }
        return dataclasses.replace(
            one,
            names=tuple(names),
            **{name: torch.cat(column) for name, column in columns.items()},
            **found,
            undefined=undefined,
            skipped=tuple(skipped),
        )

    def tables(self, summary: InvarianceSummary) -> dict[str, Table]:
        """With a row for each family, value and quantity."""
        columns = (summary.numbers, summary.target, summary.base)
        numbers, target, base = (column.tolist() for column in columns)
        return {
            "images.csv": (
                ("number", "image", "target", "probability"),
                zip(numbers, summary.names, target, base, strict=True),
            ),
            "curves.csv": (("family", "value", "of", "mean", "spread"), _rows(summary)),
        }


def _rows(summary: InvarianceSummary) -> Iterator[Sequence[object]]:
    for family, values in summary.values.items():
        names = [*(f"distance at {layer}" for layer in summary.layers), "probability"]
        means = [*summary.distances[family], summary.probabilities[family]]
        spreads = [*summary.distance_spread[family], summary.probability_spread[family]]
        for index, value in enumerate(values.tolist()):
            for name, mean, spread in zip(names, means, spreads, strict=True):
                yield family, value, name, float(mean[index]), float(spread[index])
            yield family, value, "label unchanged", float(summary.unchanged[family][index]), ""


@contextmanager
def invariance_run(
    model: nn.Module,
    images: Images | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    about: Mapping[str, Any] | None = None,
    layers: Layers | None = None,
    transformations: Mapping[str, Values] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    max_memory: int | None = None,
    outputs: Outputs | None = None,
) -> Iterator[InvarianceRun]:
    """Check, and begin the folder, or find that it holds another run. Within, the folder is this
    run's alone."""
    images = numbered(images)
    example = first_readable(images)
    x = example[None].to(device_of(model))
    study: dict[str, Any] = {
        "layers": early_and_late(model, x) if layers is None else [*find_layers(model, layers)],
        "fill": fill_setting(fill, x, with_image=False),
        "max_memory": memory_limit(max_memory, x.device, recorded=True),
    }
    families = families_of(transformations, x)
    # One image with everything that can be wrong in it, before a folder is made.
    few = {family: values[:1] for family, values in families.items()}
    tried = invariance_study(model, x, transformations=few, outputs=outputs, **study)
    first = next(iter(tried.experiments.values()))
    targets, said = targets_of(target, len(images), first.logits.shape[2])
    settings = {
        "experiment": "invariance",
        **identity_of(model, images, example, first.outputs),
        **study,
        "transformations": {
            family: values.tolist() if isinstance(values, Tensor) else [*values]
            for family, values in families.items()
        },
        "target": said,
        "images together": _TOGETHER,
    }
    study |= {"transformations": families, "outputs": first.outputs}
    run = (Path(folder), images, settings, about or {}, current_shard(), targets)
    with InvarianceRun(*run, model, study).begun() as begun:
        yield begun
