"""Every image of a data set moved, enlarged and turned (Zeiler & Fergus 2014, section 4.1)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.data.images import Numbered, numbered
from zfcuda.inference.checks import device_of, fill_setting
from zfcuda.inference.passes import Layers, find_layers
from zfcuda.invariance.layers import early_and_late
from zfcuda.invariance.study import families_of, invariance_study
from zfcuda.invariance.values import Values
from zfcuda.results.base import Outputs
from zfcuda.results.invariance import InvarianceSummary
from zfcuda.runs.beginnings import first_readable, identity_of, memory, outputs_setting, targets_of
from zfcuda.runs.folder import Run
from zfcuda.runs.invariance_summary import merged, of_one, write_tables
from zfcuda.storage.ranks import current_shard

__all__ = ["InvarianceRun", "invariance_over", "invariance_run"]

_TOGETHER = 16  # images of a group; their transformed copies fill the batches


@torch.inference_mode(False)  # nothing made here is an inference tensor
def invariance_over(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
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
    with invariance_run(
        model, images, folder, layers, target, transformations, fill, max_memory, about, outputs
    ) as run:
        run.carry_out(workers, progress)
        return run.summary()


@dataclass(frozen=True, eq=False)
class InvarianceRun:
    """What :func:`invariance_over` does, in its parts.

    Attributes:
        run: the folder.
        layers: whose features are compared.
        transformations: values by family.
        fill: what shows outside the image.
        limit: bytes that a batch may take.
        target: int64 [N]; None for what the model predicts.
        outputs: what the model's outputs are.
    """

    run: Run
    model: nn.Module
    layers: list[str]
    transformations: Mapping[str, Values]
    fill: float | Tensor
    limit: int
    target: Tensor | None
    outputs: Outputs

    def carry_out(self, workers: int = 0, progress: bool = False) -> None:
        """Compute what is missing."""
        self.run.carry_out(_TOGETHER, self._answer, workers, progress)

    def _answer(self, x: Tensor, numbers: list[int]) -> list[InvarianceSummary]:
        study = invariance_study(
            self.model,
            x.to(device_of(self.model)),
            self.layers,
            None if self.target is None else self.target[numbers],
            [self.run.images.names[number] for number in numbers],
            self.transformations,
            self.fill,
            self.limit,
            outputs=self.outputs,
        )
        return [of_one(study, index, number) for index, number in enumerate(numbers)]

    def summary(self, entry: Mapping[str, Any] | None = None) -> InvarianceSummary | None:
        """Read all results and write what they come to; None in all processes but the first.

        Args:
            entry: what the gallery says about the summary.
        """
        if not self.run.shard.first:
            return None
        missing = self.run.missing()
        skipped = self.run.skipped(missing)
        found = merged((one for _, one in self.run.results(missing)), skipped)
        self.run.save_summary(found, entry)
        write_tables(found, self.run.folder)
        return found


@contextmanager
def invariance_run(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    layers: Layers | None = None,
    target: int | Sequence[int] | Tensor | None = None,
    transformations: Mapping[str, Values] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    max_memory: int | None = None,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> Iterator[InvarianceRun]:
    """Check, and begin the folder, or find that it holds another run. Within, the folder is this
    run's alone."""
    images = numbered(images)
    example = first_readable(images)
    device = device_of(model)
    x = example[None].to(device)
    limit = memory(max_memory, device)
    names = early_and_late(model, x) if layers is None else [*find_layers(model, layers)]
    families = families_of(transformations, x)
    shown = fill_setting(fill, x, with_image=False)
    # One image with everything that can be wrong in it, before a folder is made.
    study = invariance_study(
        model, x, names, None, None, _few(families), shown, limit, outputs=outputs
    )
    first = next(iter(study.experiments.values()))
    known = first.logits.shape[2]
    targets, said = targets_of(target, len(images), known)
    settings = {
        "experiment": "invariance",
        **identity_of(model, images, example),
        "layers": names,
        "transformations": {family: _listed(values) for family, values in families.items()},
        "fill": shown,
        "target": said,
        "max_memory": limit,
        "images together": _TOGETHER,
        **outputs_setting(first.outputs),
    }
    run = Run(Path(folder), images, InvarianceSummary, settings, about or {}, current_shard())
    with run.begun():
        yield InvarianceRun(run, model, names, families, shown, limit, targets, first.outputs)


def _listed(values: Values) -> Any:
    return values.tolist() if isinstance(values, Tensor) else [*values]


def _few(families: Mapping[str, Values]) -> dict[str, Values]:
    return {family: values[:1] for family, values in families.items()}
