"""What occlusion of a data set comes to: how much each class depends on single places, and the
images that do most and least."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor

from zfcuda.data.images import tried
from zfcuda.results.occlusion import IMAGE_NUMBERS, OcclusionResult, OcclusionSummary
from zfcuda.runs.folder import Run
from zfcuda.runs.localisation import sensitivity_of
from zfcuda.storage.files import write_csv

__all__ = ["summarised", "write_tables"]

_SHOWN = 5  # most localised images, and as many least localised ones
# Of images that lose less than this wherever the occluder is, no place can be named.
TELLING = 0.1


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
        for name in IMAGE_NUMBERS
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
        *(getattr(summary, name).tolist() for name in IMAGE_NUMBERS),
        *summary.strongest.T.tolist(),
        strict=True,
    )
    box = ("y0", "x0", "y1", "x1")
    write_csv(
        folder / "images.csv", ("number", "image", "label", "target", *IMAGE_NUMBERS, *box), rows
    )
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
