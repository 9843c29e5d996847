"""What the invariance of single images comes to: the mean over a data set, and its spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from zfcuda.results.base import probabilities_of
from zfcuda.results.invariance import InvarianceStudy, InvarianceSummary
from zfcuda.runs.moments import Moments
from zfcuda.storage.files import write_csv

__all__ = ["merged", "of_one", "write_tables"]


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
