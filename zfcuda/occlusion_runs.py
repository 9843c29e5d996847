"""Occlusion of every image of a data set (Zeiler & Fergus 2014, section 4.2), and what it comes to:
how much each class depends on single places, and which images do most and least."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda._distributed import current_shard
from zfcuda._numbered import Numbered, numbered, tried
from zfcuda.folder_runs import (
    Run,
    device_of,
    first_readable,
    identity_of,
    memory,
    targets_of,
    write_csv,
)
from zfcuda.localisation import sensitivity_of
from zfcuda.results import LayerSums, OcclusionResult, Result
from zfcuda.results.checks import expect_shape
from zfcuda.sensitivity import Method, Prepared, prepare

__all__ = [
    "ClassSensitivity",
    "OcclusionRun",
    "OcclusionSummary",
    "occlusion_over",
    "occlusion_run",
]

_SHOWN = 5  # most localised images, and as many least localised ones
# Of images that lose less than this wherever the occluder is, no place can be named.
TELLING = 0.1


@dataclass(frozen=True)
class ClassSensitivity:
    """The images of one class.

    Attributes:
        label: the class.
        count: number of its images.
        mean: of its images' mean drops of P(target).
        spread: their standard deviation (n - 1); NaN of a single image.
        largest: mean of its images' largest drops.
        changed: mean share of positions where the label changes.
        localisation: mean over the images that lose something; NaN where none does.
    """

    label: int
    count: int
    mean: float
    spread: float
    largest: float
    changed: float
    localisation: float


@dataclass(frozen=True, eq=False)
class OcclusionSummary(Result):
    """Occlusion maps of N images, each in a few numbers (:mod:`zfcuda.localisation`).

    A drop is P_0 - P_p, the probability of the target class without occluder minus that with it at
    position p.

    Attributes:
        names: N, of the images.
        numbers: int64 [N], their places in the data set.
        labels: int64 [N], their own classes; -1 where none is known.
        class_names: of these; empty where none are known.
        target: int64 [N], the classes that the probabilities are about.
        probability: float64 [N], P_0.
        mean, largest: float64 [N], of an image's drops.
        strongest: int64 [N,4], (y0, x0, y1, x1), the occluder of the largest drop.
        changed: float64 [N], share of the positions where the most probable class changes.
        localisation: float64 [N], 1 - (sum w)^2 / (P sum w^2) with w = max(0, drop): 0 where every
            position takes away the same, 1 - 1/P where a single one takes away everything.
        shown: int64 [S], indices of the images that are shown: ``most`` most localised ones, the
            first before the second, then the least localised ones, the last before the last but
            one; of those that lose at least ``telling`` somewhere.
        most: how many of ``shown`` are of the first kind.
        telling: see there.
        maps: [S,rows,columns], P(target) at every position.
        images: [S,C,H,W], the network inputs.
        boxes: int64 [P,4], the occluders.
        grid: (rows, columns) of positions.
        size, stride: (height, width) of the occluder and its steps, pixels.
        image_size: (H, W).
        skipped: what is wrong with the images that could not be read, a sentence each.
    """

    names: tuple[str, ...]
    numbers: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    target: Tensor
    probability: Tensor
    mean: Tensor
    largest: Tensor
    strongest: Tensor
    changed: Tensor
    localisation: Tensor
    shown: Tensor
    most: int
    telling: float
    maps: Tensor
    images: Tensor
    boxes: Tensor
    grid: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]
    image_size: tuple[int, int]
    skipped: tuple[str, ...] = ()
    _figure = "occlusion_summary"

    def __post_init__(self) -> None:
        count = len(self.names)
        for name in ("numbers", "labels", "target", *_NUMBERS):
            expect_shape(name, getattr(self, name), count)
        expect_shape("strongest", self.strongest, count, 4)
        expect_shape("shown", self.shown, None)
        expect_shape("maps", self.maps, len(self.shown), *self.grid)
        expect_shape("images", self.images, len(self.shown), None, *self.image_size)
        expect_shape("boxes", self.boxes, math.prod(self.grid), 4)

    @property
    def labelled(self) -> bool:
        """Whether every image's own class is known; if not, classes are the targets."""
        return bool(self.class_names) and bool((self.labels >= 0).all())

    @property
    def classes(self) -> list[ClassSensitivity]:
        """Every class that occurs, the most sensitive one first; of equal ones the lower label."""
        own = self.labels if self.labelled else self.target
        found = [self._of_class(label, own == label) for label in own.unique().tolist()]
        return sorted(found, key=lambda one: -one.mean)

    def _of_class(self, label: int, members: Tensor) -> ClassSensitivity:
        mean, lost = self.mean[members], self.localisation[members]
        return ClassSensitivity(
            label,
            len(mean),
            float(mean.mean()),
            float(mean.std()) if len(mean) > 1 else math.nan,
            float(self.largest[members].mean()),
            float(self.changed[members].mean()),
            float(lost[lost.isfinite()].mean()),
        )


_NUMBERS = ("probability", "mean", "largest", "changed", "localisation")  # of each image


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion_over(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: str | Sequence[str] = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "probability",
    classes: Sequence[int] | None = (),
    max_memory: int | None = None,
    workers: int = 0,
    progress: bool = False,
    about: Mapping[str, Any] | None = None,
) -> OcclusionSummary | None:
    """Occlusion of every image of a data set, a result a file, that can be stopped at any moment.

    Positions of many images share a batch, and the model is traced and planned once. An image's
    result is written as soon as it is there, each file whole or not at all; the same call goes on
    with what is missing, and gives bit for bit what an undisturbed run would (for the same number
    of threads). Images that cannot be read are left out, and listed in the summary.

    Under ``torchrun`` the processes share the images; it does not matter how many they are, nor
    whether they are as many when the run goes on.

    Args:
        model, size, stride, fill, layers, method, score: as :func:`zfcuda.occlusion`.
        images: a tensor [N,C,H,W]; :class:`zfcuda.datasets.Examples`; a ``torch.utils.data``
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

    Returns:
        The summary; None in all processes but the first.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.occlusion`; images of several sizes; none that can
            be read; a folder that holds a run with other settings, with what differs.
    """
    run = occlusion_run(
        model, images, folder, target, size, stride, fill, layers, method, score, classes,
        max_memory, about,
    )  # fmt: skip
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

    def summary(self, entry: Mapping[str, Any] | None = None) -> OcclusionSummary | None:
        """Read all results and write what they come to; None in all processes but the first.

        Args:
            entry: what the gallery says about the summary.
        """
        if not self.run.shard.first:
            return None
        missing = self.run.missing()
        found = _summarised(self.run, missing, self.run.skipped(missing))
        self.run.save_summary(found, entry)
        _write_tables(found, self.run.folder)
        return found


def occlusion_run(
    model: nn.Module,
    images: Numbered | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: str | Sequence[str] = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "probability",
    classes: Sequence[int] | None = (),
    max_memory: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> OcclusionRun:
    """Check, trace and plan; begin the folder, or find that it holds another run."""
    images = numbered(images)
    example = first_readable(images)
    device = device_of(model)
    limit = memory(max_memory, device)
    x = example[None].to(device)
    prepared = prepare(model, x, size, stride, fill, layers, method, score, limit)
    if isinstance(prepared.network, str) and method == "auto":
        warnings.warn(f"occlusion runs dense passes, since {prepared.network}", stacklevel=4)
    targets, said = targets_of(target, len(images))
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
    }
    run = Run(Path(folder), images, OcclusionResult, settings, about or {}, current_shard())
    run.begin()
    return OcclusionRun(run, prepared, example, targets, classes)


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


# --- what it comes to -----------------------------------------------------------------------------


def _summarised(run: Run, missing: Sequence[int], skipped: Sequence[str]) -> OcclusionSummary:
    """One image's result in memory at a time."""
    numbers, targets, found, like = [], [], [], None
    for number, like in run.results(missing):
        numbers.append(number)
        targets.append(int(like.target[0]))
        found.append(sensitivity_of(like))
    columns = {
        name: torch.tensor([getattr(one, name) for one in found], dtype=torch.float64)
        for name in _NUMBERS
    }
    telling = (columns["largest"] >= TELLING) & columns["localisation"].isfinite()
    shown, most = _extremes(columns["localisation"], telling)
    results = [run.result(numbers[index]) for index in shown]
    inputs = [tried(run.images, numbers[index]) for index in shown]
    none = torch.zeros(0, *run.settings["image"])
    return OcclusionSummary(
        names=tuple(run.images.names[number] for number in numbers),
        numbers=torch.tensor(numbers),
        labels=run.images.labels[numbers],
        class_names=run.images.class_names,
        target=torch.tensor(targets),
        **columns,
        strongest=like.boxes[[one.strongest for one in found]],
        shown=torch.tensor(shown, dtype=torch.int64),
        most=most,
        telling=TELLING,
        maps=torch.stack([one.heatmap() for one in results]) if results else _no_maps(like),
        images=torch.stack([x for x in inputs if isinstance(x, Tensor)]) if inputs else none,
        boxes=like.boxes,
        grid=like.grid,
        size=like.size,
        stride=like.stride,
        image_size=like.image_size,
        skipped=tuple(skipped),
    )


def _no_maps(like: OcclusionResult) -> Tensor:
    return like.log_total.new_zeros(0, *like.grid) if like.grid else torch.zeros(0, 0, 0)


def _extremes(values: Tensor, among: Tensor) -> tuple[list[int], int]:
    """Indices of the largest values, descending, then of the smallest, ascending, and how many the
    first are; no image is both, and of equal ones the earlier comes first."""
    chosen = among.nonzero()[:, 0]
    order = chosen[values[chosen].sort(descending=True, stable=True).indices].tolist()
    most = order[: min(_SHOWN, -(-len(order) // 2))]
    rest = order[len(most) :]
    return [*most, *rest[: -_SHOWN - 1 : -1]], len(most)


def _write_tables(summary: OcclusionSummary, folder: Path) -> None:
    """images.csv and classes.csv."""
    rows = zip(
        summary.numbers.tolist(),
        summary.names,
        summary.labels.tolist(),
        summary.target.tolist(),
        *(getattr(summary, name).tolist() for name in _NUMBERS),
        *summary.strongest.T.tolist(),
        strict=True,
    )
    box = ("y0", "x0", "y1", "x1")
    write_csv(folder / "images.csv", ("number", "image", "label", "target", *_NUMBERS, *box), rows)
    names = summary.class_names if summary.labelled else ()
    fields = ("count", "mean", "spread", "largest", "changed", "localisation")
    write_csv(
        folder / "classes.csv",
        ("label", "name", *fields),
        (
            (one.label, names[one.label] if names else "", *(getattr(one, f) for f in fields))
            for one in summary.classes
        ),
    )
