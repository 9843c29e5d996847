"""Occlusion of every image of a data set (Zeiler & Fergus 2014, section 4.2)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zfcuda.cones.profile import AVX512, DeviceProfile
from zfcuda.data.images import Images, numbered
from zfcuda.experiments.occlusion.engines import Engine, Method, Request, Score, engine_for
from zfcuda.experiments.over import Run, Table, first_readable, identity_of, targets_of
from zfcuda.experiments.predictions import predict
from zfcuda.inference.checks import device_of, per_image
from zfcuda.inference.layers import Layers
from zfcuda.inference.passes import memory_limit
from zfcuda.results.base import Outputs, probabilities_of
from zfcuda.results.occlusion import IMAGE_NUMBERS, LayerSums, OcclusionResult, OcclusionSummary
from zfcuda.storage.ranks import current_shard


def sensitivity_of(result: OcclusionResult, image: int = 0) -> dict[str, float]:
    """One image's occlusion map in the numbers of :class:`OcclusionSummary`, in float64, by name;
    "strongest" is the position of the largest drop, of equal ones the first."""
    target, base = result.target[image], result.base_logits[image].double()
    before = probabilities_of(base, result.outputs)[target]
    drops = before - result.target_probability[image].double()
    strongest = int(drops.argmax())
    changed = (~result.unchanged[image]).double().mean()
    return {
        "probability": float(before),
        "mean": float(drops.mean()),
        "largest": float(drops[strongest]),
        "strongest": strongest,
        "changed": math.nan if result.outputs == "value" else float(changed),
        "localisation": float(localisation(drops)),
    }


def localisation(drops: Tensor) -> Tensor:
    """How few positions carry the drop: 1 - (sum w)^2 / (P sum w^2), with w = max(0, drop).

    The fraction, known as the participation ratio, is the share of the positions over which an even
    drop would have to be spread to be as concentrated. So 0 means that every position takes away
    the same; 1 - 1/P that a single one takes away everything. Occluders larger than their stride
    overlap, which sets an upper limit below that: only values of the same occluder, stride and
    image size compare.

    Args:
        drops: [...,P], what each position takes away from the score.

    Returns:
        [...]; NaN where no position takes anything away.
    """
    weights = drops.clamp_min(0)
    # Over the largest, so that no square of a small drop is lost.
    weights = weights / weights.amax(-1, keepdim=True)
    return 1 - weights.sum(-1) ** 2 / (drops.shape[-1] * (weights**2).sum(-1))


_SHOWN = 5  # most localised images, and as many least localised ones
# Of images that lose less than this wherever the occluder is, no place can be named.
TELLING = 0.1


def _extremes(values: Tensor, among: Tensor) -> tuple[list[int], int]:
    """Indices of the largest values, descending, then of the smallest, ascending, and how many the
    first are; no image is both, and of equal ones the earlier comes first."""
    chosen = among.nonzero()[:, 0]
    order = chosen[values[chosen].sort(descending=True, stable=True).indices].tolist()
    most = order[: min(_SHOWN, -(-len(order) // 2))]
    rest = order[len(most) :]
    return [*most, *rest[: -_SHOWN - 1 : -1]], len(most)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion_over(
    model: nn.Module,
    images: Images | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: Layers = (),
    method: Method = "auto",
    score: Score = "probability",
    classes: Sequence[int] | None = (),
    max_memory: int | None = None,
    workers: int = 0,
    progress: bool = False,
    about: Mapping[str, Any] | None = None,
    outputs: Outputs | None = None,
    profile: DeviceProfile | None = None,
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
        max_memory: bytes that the activations of one batch may take; None takes the default for
            runs that are recorded of :func:`zfcuda.inference.passes.memory_limit`.
        workers: processes that read images ahead; 0 reads in this one.
        progress: show a bar, with rate and time left.
        about: more for the JSON files, on which nothing depends, such as the model's name.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`; decided
            once, on the first image.
        profile: as :func:`zfcuda.occlusion`, of a run that is begun; one that goes on keeps its
            own, on whatever machine.

    Returns:
        The summary; None in all processes but the first.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.occlusion`; images of several sizes; none that can
            be read; a folder that holds a run with other settings, with what differs, or in which
            another run is at work.
    """
    request = Request(size, stride, fill, layers, method, score, None, max_memory, outputs, profile)
    with occlusion_run(model, images, folder, request, target, classes, about) as run:
        run.carry_out(workers, progress)
        return run.summary()


@dataclass(frozen=True, eq=False)
class OcclusionRun(Run[OcclusionResult, OcclusionSummary]):
    """What :func:`occlusion_over` does, in its parts; ``classes``: those whose logits are kept
    besides the target's, None for all."""

    kind = OcclusionResult
    engine: Engine
    classes: Sequence[int] | None

    @property
    def profile(self) -> DeviceProfile:
        """That the run was begun with, maybe on another machine.

        Raises:
            ValueError: its file holds none.
        """
        found = self.begun_with.get("profile")
        if found is None:
            return _before_profiles(str(self.begun_with.get("device")))
        try:
            return DeviceProfile.of(found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'{self.folder}' was begun with no profile: {error}") from error

    def _as_begun(self, there: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the profile that it was begun with, if it recorded one."""
        return {**super()._as_begun(there), "profile": there.get("profile")}

    def answer(self, x: Tensor, numbers: list[int], target: Tensor | None) -> list[OcclusionResult]:
        found = self.engine(x.to(device_of(self.engine.model)), target, self.classes)
        return [_of_one(found, index, self.classes) for index in range(len(numbers))]

    def summarised(
        self, results: Iterator[tuple[int, OcclusionResult]], skipped: Sequence[str]
    ) -> OcclusionSummary:
        """One image's result in memory at a time."""
        numbers, targets, found, like = [], [], [], None
        for number, like in results:
            numbers.append(number)
            targets.append(int(like.target[0]))
            found.append(sensitivity_of(like))
        columns = {
            name: torch.tensor([one[name] for one in found], dtype=torch.float64)
            for name in IMAGE_NUMBERS
        }
        least = 0.0 if like.outputs == "value" else TELLING
        telling = (columns["largest"] >= least) & columns["localisation"].isfinite()
        shown, most = _extremes(columns["localisation"], telling)
        inputs = [self.images.tried(numbers[index]) for index in shown]
        still = [isinstance(x, Tensor) for x in inputs]  # some may have vanished since
        shown, most = [*compress(shown, still)], sum(still[:most])
        maps = [self.result(numbers[index]).heatmap() for index in shown]
        none = torch.zeros(0, *self.settings["image"])
        return OcclusionSummary(
            names=tuple(self.images.names[number] for number in numbers),
            numbers=torch.tensor(numbers),
            labels=self.images.labels[numbers],
            class_names=self.images.class_names,
            target=torch.tensor(targets),
            **columns,
            strongest=like.boxes[[one["strongest"] for one in found]],
            shown=torch.tensor(shown, dtype=torch.int64),
            most=most,
            telling=least,
            maps=torch.stack(maps) if maps else like.base_logits.new_zeros(0, *like.grid),
            images=torch.stack([x for x in inputs if isinstance(x, Tensor)]) if shown else none,
            boxes=like.boxes,
            grid=like.grid,
            size=like.size,
            stride=like.stride,
            image_size=like.image_size,
            skipped=tuple(skipped),
            outputs=like.outputs,
            precision=like.precision,
        )

    def tables(self, summary: OcclusionSummary) -> dict[str, Table]:
        images = zip(
            summary.numbers.tolist(),
            summary.names,
            summary.labels.tolist(),
            summary.target.tolist(),
            *(getattr(summary, name).tolist() for name in IMAGE_NUMBERS),
            *summary.strongest.T.tolist(),
            strict=True,
        )
        names = summary.class_names if summary.labelled else ()
        fields = ("count", "mean", "spread", "largest", "changed", "localisation")
        classes = (
            (one.label, names[one.label] if names else "", *(getattr(one, f) for f in fields))
            for one in summary.classes
        )
        box = ("y0", "x0", "y1", "x1")
        head = ("number", "image", "label", "target", *IMAGE_NUMBERS, *box)
        return {"images.csv": (head, images), "classes.csv": (("label", "name", *fields), classes)}


@contextmanager
def occlusion_run(
    model: nn.Module,
    images: Images | Tensor | Dataset[Any],
    folder: str | os.PathLike[str],
    request: Request,
    target: int | Sequence[int] | Tensor | None = None,
    classes: Sequence[int] | None = (),
    about: Mapping[str, Any] | None = None,
) -> Iterator[OcclusionRun]:
    """Check, trace and plan; begin the folder, or find that it holds another run. Within, the
    folder is this run's alone."""
    images = numbered(images)
    example = first_readable(images)
    device = device_of(model)
    limit = memory_limit(request.max_memory, device, recorded=True)
    x = example[None].to(device)
    asked = replace(request, max_memory=limit)
    engine = engine_for(model, x, asked, stacklevel=7)
    said_of_first = predict(model, x, limit, asked.outputs)
    asked = replace(asked, outputs=said_of_first.outputs)
    request = replace(engine.request, outputs=asked.outputs)
    engine = replace(engine, request=request)
    known = said_of_first.logits.shape[1]
    targets, said = targets_of(target, len(images), known)
    if classes:
        per_image(list(classes), len(classes), known, "classes")
    settings = {
        "experiment": "occlusion",
        **identity_of(model, images, example, said_of_first.outputs),
        "size": request.size,
        "stride": request.stride,
        "fill": request.fill,
        "layers": request.layers,
        "method": request.method,
        "score": request.score,
        "target": said,
        "classes": None if classes is None else sorted({*map(int, classes)}),
        "max_memory": limit,
        "profile": request.profile.settings,
        "images together": engine.together(x),
    }
    run = (Path(folder), images, settings, about or {}, current_shard(), targets)
    with OcclusionRun(*run, engine, classes).begun() as begun:
        if (own := begun.profile) != request.profile:
            begun = replace(begun, engine=engine_for(model, x, replace(asked, profile=own)))
        yield begun


def _before_profiles(device: str) -> DeviceProfile:
    """As a kind of device was treated until runs recorded it."""
    return AVX512 if device == "cpu" else replace(AVX512, cached=0)


def _of_one(result: OcclusionResult, index: int, classes: Sequence[int] | None) -> OcclusionResult:
    """One image's part, as if it had been occluded alone; without the wall time, which it has none
    of its own."""
    one = slice(index, index + 1)
    logits, own = result.logits[one], None
    if classes is not None:
        own = torch.tensor([*map(int, classes), int(result.target[index])]).unique()
        logits = logits[..., torch.searchsorted(result.classes, own)]
    names = ("base_logits", "target", "best", "log_total")  # the last two come with classes only
    rows = {name: getattr(result, name) for name in names}
    return replace(
        result,
        logits=logits,
        **{name: None if own is None else own[one] for name, own in rows.items()},
        layers={
            name: LayerSums(name, sums.channels[one], sums.base[one], sums.sums[one])
            for name, sums in result.layers.items()
        },
        seconds=math.nan,
        classes=own,
    )
