"""Every image of a data set moved, enlarged and turned (Zeiler & Fergus 2014, section 4.1)."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.data.images import Images, numbered
from zfcuda.experiments.invariance.experiment import Values
from zfcuda.experiments.invariance.study import early_and_late, families_of, invariance_study
from zfcuda.experiments.over import (
    Run,
    first_readable,
    identity_of,
    outputs_setting,
    targets_of,
)
from zfcuda.inference.checks import device_of, fill_setting
from zfcuda.inference.passes import Layers, find_layers, memory_limit
from zfcuda.results.base import Outputs, probabilities_of
from zfcuda.results.invariance import InvarianceStudy, InvarianceSummary
from zfcuda.storage.files import write_csv
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


def merged(ones: Iterable[InvarianceSummary], skipped: Sequence[str]) -> InvarianceSummary:
    """The summaries of single images as one; one in memory at a time."""
    moments: dict[str, dict[str, Moments]] = {quantity: {} for quantity, _ in _AVERAGED.values()}
    names: list[str] = []
    columns: dict[str, list[Tensor]] = {"numbers": [], "target": [], "base": []}
    undefined = 0
    for one in ones:
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


def write_tables(summary: InvarianceSummary, folder: Path) -> None:
    """images.csv, and curves.csv with a row for each family, value and quantity."""
    write_csv(
        folder / "images.csv",
        ("number", "image", "target", "probability"),
        zip(
            summary.numbers.tolist(),
            summary.names,
            summary.target.tolist(),
            summary.base.tolist(),
            strict=True,
        ),
    )
    write_csv(folder / "curves.csv", ("family", "value", "of", "mean", "spread"), _rows(summary))


def _rows(summary: InvarianceSummary) -> Iterable[tuple[object, ...]]:
    for family, values in summary.values.items():
        for index, value in enumerate(values.tolist()):
            for layer, mean, spread in zip(
                summary.layers,
                summary.distances[family][:, index].tolist(),
                summary.distance_spread[family][:, index].tolist(),
                strict=True,
            ):
                yield family, value, f"distance at {layer}", mean, spread
            yield (
                family,
                value,
                "probability",
                float(summary.probabilities[family][index]),
                float(summary.probability_spread[family][index]),
            )
            yield family, value, "label unchanged", float(summary.unchanged[family][index]), ""


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
class InvarianceRun:
    """What :func:`invariance_over` does, in its parts.

    Attributes:
        run: the folder.
        study: of some images, the arguments ``target`` and ``names`` left open.
        target: int64 [N]; None for what the model predicts.
        outputs: what the model's outputs are.
    """

    run: Run[InvarianceSummary]
    study: Callable[..., InvarianceStudy]
    target: Tensor | None
    outputs: Outputs

    def carry_out(self, workers: int = 0, progress: bool = False) -> None:
        """Compute what is missing."""
        self.run.carry_out(_TOGETHER, self._answer, workers, progress)

    def _answer(self, x: Tensor, numbers: list[int]) -> list[InvarianceSummary]:
        own = None if self.target is None else self.target[numbers]
        study = self.study(x, target=own, names=[self.run.images.names[n] for n in numbers])
        return [of_one(study, index, number) for index, number in enumerate(numbers)]

    def summary(self, entry: Mapping[str, Any] | None = None) -> InvarianceSummary | None:
        """Read all results and write what they come to; None in all processes but the first.

        Args:
            entry: what the gallery says about the summary.
        """
        return self.run.summed_up(
            lambda missing, skipped: merged((one for _, one in self.run.results(missing)), skipped),
            write_tables,
            None if entry is None else lambda _: entry,
        )


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
    device = device_of(model)
    x = example[None].to(device)
    limit = memory_limit(max_memory, device, recorded=True)
    names = early_and_late(model, x) if layers is None else [*find_layers(model, layers)]
    families = families_of(transformations, x)
    shown = fill_setting(fill, x, with_image=False)
    study = partial(invariance_study, model, layers=names, fill=shown, max_memory=limit)
    # One image with everything that can be wrong in it, before a folder is made.
    few = {family: values[:1] for family, values in families.items()}
    tried = study(x, transformations=few, outputs=outputs)
    first = next(iter(tried.experiments.values()))
    targets, said = targets_of(target, len(images), first.logits.shape[2])
    settings = {
        "experiment": "invariance",
        **identity_of(model, images, example),
        "layers": names,
        "transformations": {
            family: values.tolist() if isinstance(values, Tensor) else [*values]
            for family, values in families.items()
        },
        "fill": shown,
        "target": said,
        "max_memory": limit,
        "images together": _TOGETHER,
        **outputs_setting(first.outputs),
    }
    run = Run(Path(folder), images, InvarianceSummary, settings, about or {}, current_shard())
    study = partial(study, transformations=families, outputs=first.outputs)
    with run.begun():
        yield InvarianceRun(run, lambda x, **of: study(x.to(device), **of), targets, first.outputs)
