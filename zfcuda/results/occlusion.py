"""The model's output, and its layers' activity, under an occluder."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from zfcuda.results.base import (
    ChangedAnswers,
    Outputs,
    Result,
    check_outputs,
    check_shapes,
    expect_shape,
    of_target,
)


@dataclass(frozen=True, eq=False)
class LayerSums:
    """Activity of one map of a layer under occlusion (Zeiler & Fergus 2014, figure 7b).

    Attributes:
        layer: the layer's name.
        channels: int64 [N], the map that holds the largest single activation without occluder.
        base: [N], that map's spatial sum without occluder.
        sums: [N,P], its spatial sum at every occluder position.
    """

    layer: str
    channels: Annotated[Tensor, "N"]
    base: Annotated[Tensor, "N"]
    sums: Annotated[Tensor, "N P"]

    def __post_init__(self) -> None:
        check_shapes(self)


@dataclass(frozen=True, eq=False)
class OcclusionResult(ChangedAnswers):
    """The model's output at every position of an occluder (Zeiler & Fergus 2014, section 4.2).

    Attributes:
        logits: [N,P,K]; of the chosen ``classes`` only, if there are any.
        base_logits: [N,K], without occluder, always of all classes.
        target: int64 [N], the class the scores are about.
        boxes: int64 [P,4], (y0, x0, y1, x1), half open, pixels; row by row of the grid.
        grid: (rows, columns) of positions, P of them; None for positions of the caller's own.
        size, stride: (height, width) of the occluder and its steps, pixels; None likewise.
        fill: what the occluder showed, in network input space: a number, [C], or [C,H,W].
        layers: for every recorded layer, its strongest map's activity.
        score: what :meth:`to_attribution` is made of, ``"logit"`` or ``"probability"``.
        method: how it was computed: ``"cone"``, only what an occluder can change, or ``"dense"``.
        classes: int64, the classes whose logits were kept, ascending; None for all. With them come
            ``best``, int64 [N,P], the most probable of all classes, and ``log_total``, [N,P], the
            logarithm of the sum over all classes of exp(logit).
    """

    logits: Annotated[Tensor, "N P K"]
    base_logits: Tensor
    target: Annotated[Tensor, "N"]
    boxes: Annotated[Tensor, "P 4"]
    grid: tuple[int, int] | None
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    image_size: tuple[int, int]
    fill: float | Tensor
    layers: dict[str, LayerSums]
    seconds: float
    score: Literal["logit", "probability"] = "logit"
    method: Literal["cone", "dense"] = "dense"
    classes: Annotated[Tensor | None, "K"] = None
    best: Annotated[Tensor | None, "N P"] = None
    log_total: Annotated[Tensor | None, "N P"] = None
    outputs: Outputs = "logits"

    def __post_init__(self) -> None:
        count = self.grid[0] * self.grid[1] if self.grid else None
        expect_shape("logits", self.logits, None, count, None)
        check_shapes(self)
        n, positions, classes = self.logits.shape
        if self.classes is None:
            expect_shape("base_logits", self.base_logits, n, classes)
        elif self.best is None or self.log_total is None:
            raise ValueError("best and log_total must be given with classes, got None")
        for layer, sums in self.layers.items():
            expect_shape(f"layers[{layer!r}].sums", sums.sums, n, positions)
        if self.score not in ("logit", "probability"):
            raise ValueError(f"score must be 'logit' or 'probability', got {self.score!r}")
        check_outputs(self.outputs, self.base_logits.shape[1])

    @property
    def probabilities(self) -> Tensor:
        """[N,P,K], of the classes that ``logits`` holds: the softmax over all classes, the sigmoid
        of one logit, or as the model gives them; a regression's values as they are."""
        if self.classes is None or self.log_total is None or self.outputs != "logits":
            return super().probabilities
        return (self.logits - self.log_total[..., None]).exp()

    @property
    def labels(self) -> Tensor:
        """int64 [N,P], the most probable class at every position."""
        return super().labels if self.best is None else self.best

    @property
    def _target_column(self) -> Tensor:
        if self.classes is None:
            return self.target
        return torch.searchsorted(self.classes, self.target)

    def _on_grid(self, values: Tensor) -> Tensor:
        if self.grid is None:
            raise ValueError(
                "positions of the caller's own form no map; use target_probability, labels and "
                "layers, or to_attribution()"
            )
        return values.view(self.grid)

    def heatmap(self, image: int = 0) -> Tensor:
        """[rows, columns], probability of the target class as a map (figure 7d).

        Raises:
            ValueError: the positions are the caller's own.
        """
        return self._on_grid(self.target_probability[image])

    def label_map(self, image: int = 0) -> Tensor:
        """int64 [rows, columns], the most probable class as a map (figure 7e).

        Raises:
            ValueError: the positions are the caller's own.
        """
        return self._on_grid(self.labels[image])

    def layer_map(self, layer: str, image: int = 0) -> Tensor:
        """[rows, columns], the spatial sum of the layer's strongest map as a map (figure 7b).

        Raises:
            ValueError: the layer was not recorded, or the positions are the caller's own.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not recorded; recorded: {sorted(self.layers)}")
        return self._on_grid(self.layers[layer].sums[image])

    def to_attribution(self) -> Tensor:
        """Captum's occlusion map [N,1,H,W]: score without minus score with occluder, averaged at
        every pixel over the positions that cover it (0 where none does, possible when the stride
        exceeds the size)."""
        scores, base = self.logits, self.base_logits
        if self.score == "probability":
            scores, base = self.probabilities, self.base_probabilities
        drop = of_target(base, self.target)[:, None] - of_target(scores, self._target_column)
        total = torch.zeros(len(drop), *self.image_size, dtype=torch.float64)
        covering = torch.zeros(self.image_size, dtype=torch.float64)
        for p, (y0, x0, y1, x1) in enumerate(self.boxes.tolist()):
            total[:, y0:y1, x0:x1] += drop[:, p, None, None]
            covering[y0:y1, x0:x1] += 1
        return (total / covering.clamp_min(1))[:, None].to(drop.dtype)


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


IMAGE_NUMBERS = ("probability", "mean", "largest", "changed", "localisation")  # of each image


@dataclass(frozen=True, eq=False)
class OcclusionSummary(Result):
    """Occlusion maps of N images, each in a few numbers (:mod:`zfcuda.experiments.occlusion.over`).

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
        skipped: what is wrong with the images that could not be read, a sentence each.
        outputs: what the network's outputs are (:class:`zfcuda.Predictions`); of a regression's
            values a drop is what they fall by, and ``telling`` is 0.
    """

    names: Annotated[tuple[str, ...], "N"]
    numbers: Annotated[Tensor, "N"]
    labels: Annotated[Tensor, "N"]
    class_names: tuple[str, ...]
    target: Annotated[Tensor, "N"]
    probability: Annotated[Tensor, "N"]
    mean: Annotated[Tensor, "N"]
    largest: Annotated[Tensor, "N"]
    strongest: Annotated[Tensor, "N 4"]
    changed: Annotated[Tensor, "N"]
    localisation: Annotated[Tensor, "N"]
    shown: Annotated[Tensor, "S"]
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

    def __post_init__(self) -> None:
        super().__post_init__()
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
