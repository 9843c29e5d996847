"""What occlusion of a data set comes to: how much each class depends on single places, and the
images that do most and least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from zfcuda.data.images import tried
from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape
from zfcuda.results.occlusion import OcclusionResult
from zfcuda.results.scores import Outputs
from zfcuda.runs.folder import Run
from zfcuda.runs.localisation import sensitivity_of
from zfcuda.storage.files import write_csv

__all__ = ["ClassSensitivity", "OcclusionSummary", "summarised", "write_tables"]

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
    """Occlusion maps of N images, each in a few numbers (:mod:`zfcuda.runs.localisation`).

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
        outputs: what the network's outputs are (:class:`zfcuda.Predictions`); of a regression's
            values a drop is what they fall by, and ``telling`` is 0.
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
    outputs: Outputs = "logits"
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


# --- from all results ---------------------------------------------------------------------------


def summarised(run: Run, missing: Sequence[int], skipped: Sequence[str]) -> OcclusionSummary:
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
    least = 0.0 if like.outputs == "value" else TELLING
    telling = (columns["largest"] >= least) & columns["localisation"].isfinite()
    shown, most = _extremes(columns["localisation"], telling)
    inputs = [tried(run.images, numbers[index]) for index in shown]
    still = [isinstance(x, Tensor) for x in inputs]  # some may have vanished since
    shown, most = [*compress(shown, still)], sum(still[:most])
    results = [run.result(numbers[index]) for index in shown]
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
        telling=least,
        maps=torch.stack([one.heatmap() for one in results]) if results else _no_maps(like),
        images=torch.stack([x for x in inputs if isinstance(x, Tensor)]) if shown else none,
        boxes=like.boxes,
        grid=like.grid,
        size=like.size,
        stride=like.stride,
        image_size=like.image_size,
        skipped=tuple(skipped),
        outputs=like.outputs,
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


def write_tables(summary: OcclusionSummary, folder: Path) -> None:
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
