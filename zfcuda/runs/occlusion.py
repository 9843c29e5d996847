"""Occlusion of every image of a data set (Zeiler & Fergus 2014, section 4.2)."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.data.images import Numbered, numbered
from zfcuda.inference.checks import device_of, per_image
from zfcuda.inference.passes import Layers
from zfcuda.predictions import predict
from zfcuda.results.base import Outputs
from zfcuda.results.occlusion import LayerSums, OcclusionResult, OcclusionSummary
from zfcuda.runs.beginnings import first_readable, identity_of, memory, outputs_setting, targets_of
from zfcuda.runs.folder import Run
from zfcuda.runs.occlusion_summary import summarised, write_tables
from zfcuda.sensitivity.experiment import prepare
from zfcuda.sensitivity.prepared import Prepared
from zfcuda.sensitivity.request import Method
from zfcuda.storage.files import visible
from zfcuda.storage.ranks import current_shard

__all__ = ["OcclusionRun", "occlusion_over", "occlusion_run"]


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion_over(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: Layers = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "probability",
    classes: Sequence[int] | None = (),
    max_memory: int | None = None,
    workers: int = 0,
    progress: bool = False,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> OcclusionSummary | None:
    """Occlusion of every image of a data set, a result a file, that can be stopped at any moment.

    Positions of many images share a batch, and the model is traced and planned once. An image's
    result is written as soon as it is there, each file whole or not at all; the same call goes on
    with what is missing, in as many threads as the run was begun with, and gives bit for bit what
    an undisturbed run would. Images that cannot be read are left out, and listed in the summary.

    Under ``torchrun`` the processes share the images; it does not matter how many they are, nor
    whether they are as many when the run goes on. (It gives each process one thread, unless
    OMP_NUM_THREADS says otherwise.)

    Args:
        model, size, stride, fill, layers, method, score: as :func:`zfcuda.occlusion`.
        images: a tensor [N,C,H,W]; :class:`zfcuda.data.Examples`; a ``torch.utils.data``
            Dataset with a length, of images [C,H,W] or (image, label), all of one size. Images are
            moved to the model's device.
        folder: of the run. ``images`` gets each image's :class:`OcclusionResult`, NUMBER-NAME.npz
            and .json; ``summary`` is what is returned; ``images.csv`` and ``classes.csv`` are its
            tables.
        target: the class that probabilities are about, one for all images or one per image; None
            takes what the model predicts for each.
        classes: keep these classes' logits and the target's; None keeps all (4 bytes for each class
            and position, before compression).
        max_memory: bytes that the activations of one batch may take; by default 128 MiB on a CPU, 1
            GiB on a GPU.
        workers: processes that read images ahead; 0 reads in this one.
        progress: show a bar, with rate and time left.
        about: more for the JSON files, on which nothing depends, such as the model's name.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`; decided
            once, on the first image.

    Returns:
        The summary; None in all processes but the first.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.occlusion`; images of several sizes; none that can
            be read; a folder that holds a run with other settings, with what differs, or in which
            another run is at work.
    """
    with occlusion_run(
        model, images, folder, target, size, stride, fill, layers, method, score, classes,
        max_memory, about, outputs,
    ) as run:  # fmt: skip
        run.carry_out(workers, progress)
        return run.summary()


@dataclass(frozen=True, eq=False)
class OcclusionRun:
    """What :func:`occlusion_over` does, in its parts.

    Attributes:
        run: the folder.
        prepared: the model and its occluder.
        example: an image [C,H,W].
        target: int64 [N]; None for what the model predicts.
        classes: those whose logits are kept besides the target's; None for all.
    """

    run: Run
    prepared: Prepared
    example: Tensor
    target: Tensor | None
    classes: Sequence[int] | None

    def carry_out(self, workers: int = 0, progress: bool = False) -> None:
        """Compute what is missing."""
        together = self.prepared.together(self.example[None])
        self.run.carry_out(together, self._answer, workers, progress)

    def _answer(self, x: Tensor, numbers: list[int]) -> list[OcclusionResult]:
        target = None if self.target is None else self.target[numbers]
        found = self.prepared(x.to(device_of(self.prepared.model)), target, self.classes)
        return [_of_one(found, index, self.classes) for index in range(len(numbers))]

    def summary(
        self, entry: Callable[[OcclusionSummary], Mapping[str, Any]] | None = None
    ) -> OcclusionSummary | None:
        """Read all results and write what they come to; None in all processes but the first.

        Args:
            entry: of the summary, what the gallery says about it.
        """
        if not self.run.shard.first:
            return None
        missing = self.run.missing()
        found = summarised(self.run, missing, self.run.skipped(missing))
        self.run.save_summary(found, entry(found) if entry else None)
        write_tables(found, self.run.folder)
        return found


@contextmanager
def occlusion_run(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: Layers = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "probability",
    classes: Sequence[int] | None = (),
    max_memory: int | None = None,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
) -> Iterator[OcclusionRun]:
    """Check, trace and plan; begin the folder, or find that it holds another run. Within, the
    folder is this run's alone."""
    images = numbered(images)
    example = first_readable(images)
    device = device_of(model)
    limit = memory(max_memory, device)
    x = example[None].to(device)
    prepared = prepare(model, x, size, stride, fill, layers, method, score, limit, outputs)
    if isinstance(prepared.network, str) and method == "auto":
        warnings.warn(
            visible(f"occlusion runs dense passes, since {prepared.network}"), stacklevel=5
        )
    said_of_first = predict(model, x, limit, outputs)
    prepared = replace(prepared, outputs=said_of_first.outputs)
    known = said_of_first.logits.shape[1]
    targets, said = targets_of(target, len(images), known)
    if classes:
        per_image(list(classes), len(classes), known, "classes")
    settings = {
        "experiment": "occlusion",
        **identity_of(model, images, example),
        "size": prepared.request.size,
        "stride": prepared.request.stride,
        "fill": prepared.fill,
        "layers": prepared.layers,
        "method": method,
        "score": score,
        "target": said,
        "classes": None if classes is None else sorted({*map(int, classes)}),
        "max_memory": limit,
        "images together": prepared.together(x),
        **outputs_setting(said_of_first.outputs),
    }
    run = Run(Path(folder), images, OcclusionResult, settings, about or {}, current_shard())
    with run.begun():
        yield OcclusionRun(run, prepared, example, targets, classes)


def _of_one(result: OcclusionResult, index: int, classes: Sequence[int] | None) -> OcclusionResult:
    """One image's part, as if it had been occluded alone; without the wall time, which it has none
    of its own."""
    one = slice(index, index + 1)
    logits, own = result.logits[one], None
    if classes is not None:
        own = torch.tensor([*map(int, classes), int(result.target[index])]).unique()
        logits = logits[..., torch.searchsorted(result.classes, own)]
    return replace(
        result,
        logits=logits,
        base_logits=result.base_logits[one],
        target=result.target[one],
        layers={
            name: LayerSums(name, sums.channels[one], sums.base[one], sums.sums[one])
            for name, sums in result.layers.items()
        },
        seconds=math.nan,
        classes=own,
        best=None if result.best is None else result.best[one],
        log_total=None if result.log_total is None else result.log_total[one],
    )
