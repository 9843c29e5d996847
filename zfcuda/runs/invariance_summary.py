"""What the invariance of single images comes to: the mean over a data set, and its spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape
from zfcuda.results.invariance_study import InvarianceStudy
from zfcuda.results.scores import Outputs, probabilities_of
from zfcuda.runs.moments import Moments
from zfcuda.storage.files import write_csv

__all__ = ["InvarianceSummary", "merged", "of_one", "write_tables"]


@dataclass(frozen=True, eq=False)
class InvarianceSummary(Result):
    """How far features and answers move when N images are transformed: the mean over the images and
    its spread, the standard deviation over the images (n - 1; NaN of a single one).

    L is the number of layers, M of a family's transformations.

    Attributes:
        names: N, of the images.
        numbers: int64 [N], their places in the data set.
        target: int64 [N], the classes that the probabilities are about.
        base: float64 [N], P(target) of the untransformed images.
        layers: whose features are compared, early ones first.
        values: by family ("vertical translation", ...) float64 [M], pixels down or right, factors,
            degrees counter-clockwise.
        distances: by family float64 [L,M], mean Euclidean distance of a layer's features to those
            of the untransformed image, as a share of the latter's norm.
        distance_spread: likewise, its spread.
        probabilities: by family float64 [M], mean of P(target).
        probability_spread: likewise, its spread.
        unchanged: by family float64 [M], share of the images whose most probable class stays.
        undefined: number of images left out of some distance, since their features' norm is 0.
        skipped: what is wrong with the images that could not be read, a sentence each.
        outputs: what the network's outputs are (:class:`zfcuda.Predictions`); of a regression's
            values ``unchanged`` is NaN.
    """

    names: tuple[str, ...]
    numbers: Tensor
    target: Tensor
    base: Tensor
    layers: tuple[str, ...]
    values: dict[str, Tensor]
    distances: dict[str, Tensor]
    distance_spread: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    probability_spread: dict[str, Tensor]
    unchanged: dict[str, Tensor]
    undefined: int = 0
    skipped: tuple[str, ...] = ()
    outputs: Outputs = "logits"
    _figure = "invariance_summary"

    def __post_init__(self) -> None:
        for name in ("numbers", "target", "base"):
            expect_shape(name, getattr(self, name), len(self.names))
        for family, values in self.values.items():
            expect_shape(f"values[{family!r}]", values, None)
            for name in ("distances", "distance_spread"):
                shape = (len(self.layers), len(values))
                expect_shape(f"{name}[{family!r}]", getattr(self, name)[family], *shape)
            for name in ("probabilities", "probability_spread", "unchanged"):
                expect_shape(f"{name}[{family!r}]", getattr(self, name)[family], len(values))


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


@dataclass(eq=False)
class _Family:
    distances: Moments
    probabilities: Moments
    unchanged: Moments


@dataclass(eq=False)
class _Columns:
    """One entry an image."""

    names: list[str] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    target: list[Tensor] = field(default_factory=list)
    base: list[Tensor] = field(default_factory=list)
    undefined: int = 0


def merged(ones: Iterable[InvarianceSummary], skipped: Sequence[str]) -> InvarianceSummary:
    """The summaries of single images as one; one in memory at a time."""
    families: dict[str, _Family] = {}
    columns = _Columns()
    for one in ones:
        for family in one.values:
            if family not in families:
                some = (one.distances, one.probabilities, one.unchanged)
                families[family] = _Family(*(Moments.like(values[family]) for values in some))
            families[family].distances.add(one.distances[family])
            families[family].probabilities.add(one.probabilities[family])
            families[family].unchanged.add(one.unchanged[family])
        columns.names += one.names
        columns.undefined += one.undefined
        for name in ("numbers", "target", "base"):
            getattr(columns, name).append(getattr(one, name))
    return InvarianceSummary(
        names=tuple(columns.names),
        numbers=torch.cat(columns.numbers),
        target=torch.cat(columns.target),
        base=torch.cat(columns.base),
        layers=one.layers,
        values=one.values,
        distances={name: own.distances.found() for name, own in families.items()},
        distance_spread={name: own.distances.spread() for name, own in families.items()},
        probabilities={name: own.probabilities.found() for name, own in families.items()},
        probability_spread={name: own.probabilities.spread() for name, own in families.items()},
        unchanged={name: own.unchanged.found() for name, own in families.items()},
        undefined=columns.undefined,
        skipped=tuple(skipped),
        outputs=one.outputs,
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
