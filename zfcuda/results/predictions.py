"""What the model says about images, how far it can be trusted, what a background contributes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zfcuda.results.base import (
    Answers,
    Outputs,
    answer_of,
    entropy_of,
    of_target,
    probabilities_of,
    wilson,
)


class _Pair(NamedTuple):
    probabilities: Tensor
    labels: Tensor


class Top(_Pair):
    """The most probable classes: ``probabilities`` [N,k], descending, int64 ``labels`` [N,k], and
    their ``names``, per image k of them, or None where the classes' names are not known. It is
    taken apart as (probabilities, labels)."""

    names: tuple[tuple[str, ...], ...] | None = None


@dataclass(frozen=True, eq=False)
class Predictions(Answers):
    """What the model says about N images.

    Attributes:
        logits: [N,K], the model's output.
        outputs: what that is: ``"logits"``, ``"probabilities"``, or of one output ``"logit"``,
            ``"probability"`` or a regression's ``"value"``.
        class_names: K, in label order, or two of a single output, which stands for the second;
            empty where they are not known.
    """

    logits: Annotated[Tensor, "N K"]
    outputs: Outputs = "logits"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        count = self.logits.shape[1]
        if self.class_names and len(self.class_names) not in ((1, 2) if count == 1 else (count,)):
            raise ValueError(
                f"{len(self.class_names)} class names for {count} outputs: expected one for each, "
                "or two for a single output"
            )

    @property
    def entropy(self) -> Tensor:
        """[N], entropy of the probabilities in nats: 0 when certain, ln K when uniform. Of classes
        that do not exclude one another (sigmoids) the sum of theirs; of values NaN."""
        return entropy_of(self.probabilities, self.outputs)

    def top(self, k: int = 5) -> Top:
        """The ``k`` most probable classes: probabilities [N,k], descending, and int64 labels [N,k];
        ``.names`` are what these are called, where that is known. Of a single output [N,1].

        Raises:
            ValueError: ``k`` is not between 1 and K, where K is more than 1.
        """
        count = self.logits.shape[1]
        if count == 1 and k > 1:  # a choice among one: what it says is still the answer
            k = 1
        if not 1 <= k <= count:
            raise ValueError(f"k must be between 1 and {count} classes, got {k}")
        probabilities, labels = self.probabilities.topk(k)
        top = Top(probabilities, labels)
        if self.class_names:
            names = self.class_names[-count:]  # a single output stands for the second of two
            top.names = tuple(tuple(names[label] for label in row) for row in labels.tolist())
        return top


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy, in B bins of equal width over 0..1 (Guo et al. 2017,
    arXiv 1706.04599). A picture's confidence is the probability of its most probable class.

    Attributes:
        edges: [B+1], of the bins; a bin includes its upper edge, the first one both.
        counts: int64 [B], pictures in each bin.
        confidence: [B], their mean confidence, NaN in an empty bin.
        accuracy: [B], the share of them that the network gets right, NaN in an empty bin.
        ece: the expected calibration error, the mean of |accuracy - confidence| over pictures.
    """

    edges: Tensor
    counts: Tensor
    confidence: Tensor
    accuracy: Tensor
    ece: float

    @property
    def interval(self) -> Tensor:
        """float64 [B,2], Wilson's 95 % interval of ``accuracy``; 0 to 1 in an empty bin."""
        return wilson(self.accuracy, self.counts)


@dataclass(frozen=True, eq=False)
class UncertaintyResult(Answers):
    """A network's answers to N labelled pictures, and the M pictures it is least certain of.

    Attributes:
        logits: [N,K].
        labels: int64 [N], the true classes.
        numbers: int64 [M], the least certain pictures' places among the N, least certain first.
        images: [M,C,H,W], those pictures as network input.
        bins: of the reliability curve.
        outputs: what the network's outputs are (:class:`zfcuda.Predictions`); a single logit or
            probability is that of class 1 of two.
    """

    logits: Annotated[Tensor, "N K"]
    labels: Annotated[Tensor, "N"]
    numbers: Annotated[Tensor, "M"]
    images: Annotated[Tensor, "M C H W"]
    bins: int
    seconds: float
    outputs: Outputs = "logits"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}")

    @property
    def probabilities(self) -> Tensor:
        """float64 [N,K], the softmax of the logits, or as the network gives them; [N,2] of a single
        one."""
        return class_probabilities(self.logits, self.outputs)

    @property
    def entropy(self) -> Tensor:
        """float64 [N], nats: 0 when certain, ln K when all classes are equally likely."""
        return entropy_of(self.probabilities, self.outputs)

    @property
    def predicted(self) -> Tensor:
        """int64 [N], the most probable classes."""
        return answer_of(self.logits, self.outputs)

    @property
    def correct(self) -> Tensor:
        """bool [N], whether the prediction is the label; False where a logit is NaN."""
        return (self.predicted == self.labels) & self._answered

    @property
    def _answered(self) -> Tensor:
        """bool [N]: of a NaN the argmax is some class, but no answer."""
        return ~self.logits.isnan().any(-1)

    @property
    def accuracy(self) -> float:
        """The share of pictures that the network gets right."""
        return float(self.correct.double().mean())

    @property
    def interval(self) -> Tensor:
        """float64 [2], Wilson's 95 % interval of ``accuracy``."""
        return wilson(self.accuracy, len(self.labels))

    def median_entropy(self, correct: bool) -> float:
        """Of the right or of the wrong answers, nats: of an even number the mean of the two in the
        middle; answers that are no numbers are left out, NaN where none is left."""
        values = self.entropy[(self.correct == correct) & self._answered].numpy()
        return float(np.median(values)) if values.size else math.nan

    @property
    def cross_entropy(self) -> float:
        """The mean negative log-likelihood of the labels, nats."""
        if self.outputs in ("logits", "logit"):
            logits = self.logits.double()
            if self.outputs == "logit":  # beside which the other of two classes has 0
                logits = torch.cat([torch.zeros_like(logits), logits], -1)
            logs = logits.log_softmax(-1)
        else:
            logs = self.probabilities.log()
        return float(-of_target(logs, self.labels).mean())

    @property
    def confusion(self) -> Tensor:
        """int64 [K,K], pictures of each class (row) by predicted class (column); without those that
        have a NaN among their logits."""
        classes = self.probabilities.shape[1]
        pairs = (self.labels * classes + self.predicted)[self._answered]
        return pairs.bincount(minlength=classes**2).view(classes, classes)

    def reliability(self) -> Reliability:
        """The reliability curve over ``bins`` bins."""
        confidence = self.probabilities.amax(-1)
        known = confidence.isfinite()
        bins = (confidence[known] * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)
        counts = bins.bincount(minlength=self.bins)
        right, sure = (
            torch.zeros(self.bins, dtype=torch.float64).index_add(0, bins, values[known].double())
            for values in (self.correct, confidence)
        )
        total = int(counts.sum())
        return Reliability(
            edges=torch.linspace(0, 1, self.bins + 1, dtype=torch.float64),
            counts=counts,
            confidence=sure / counts,
            accuracy=right / counts,
            ece=float((right - sure).abs().sum() / total) if total else math.nan,
        )


def class_probabilities(answers: Tensor, outputs: Outputs) -> Tensor:
    """float64 [N,K] of ``answers`` [N,K]; of one output, the probability of class 1, [N,2]."""
    found = probabilities_of(answers.double(), outputs)
    return torch.cat([1 - found, found], -1) if outputs in ("logit", "probability") else found


@dataclass(frozen=True, eq=False)
class BackgroundResult(Answers):
    """One object on its own background, on plain colours and cut out (the talk's figures 3 and 4).

    Attributes:
        variants: V names, "original" first, "cut-out" last.
        images: [V,C,H,W], the network inputs.
        logits: [V,K].
        target: the class the probabilities are about.
        projections: per layer [V,C,H,W], each variant's strongest activation of its strongest map.
        projection_change: per layer [V], norm of (projection - the original's) over norm of the
            original's.
        units: per layer int64 [V,3], the projected unit as (channel, row, column).
        activations: per layer [V], the projected unit's value.
        mask: [H,W] in 0..1, 1 on the object.
        on_object: per layer [V], the share of the projection's energy (its sum of squares) that
            lies on the object; NaN for a projection that is zero.
        sizes: per layer (maps, rows, columns), as in :class:`Projections`.
    """

    variants: Annotated[tuple[str, ...], "V"]
    images: Annotated[Tensor, "V C H W"]
    logits: Annotated[Tensor, "V K"]
    target: int
    projections: Annotated[dict[str, Tensor], "V C H W"]
    projection_change: Annotated[dict[str, Tensor], "projections: V"]
    units: Annotated[dict[str, Tensor], "projections: V 3"]
    activations: Annotated[dict[str, Tensor], "projections: V"]
    mask: Annotated[Tensor, "H W"]
    on_object: Annotated[dict[str, Tensor], "V"] = field(default_factory=dict)
    outputs: Outputs = "logits"
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def probability_change(self) -> Tensor:
        """[V], probability of the target class minus the original's."""
        probability = self.probabilities[:, self.target]
        return probability - probability[0]

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The ``k`` most probable classes: probabilities [V,k], descending, and int64 labels [V,k].

        Raises:
            ValueError: ``k`` is not between 1 and K.
        """
        return Predictions(self.logits, self.outputs).top(k)
