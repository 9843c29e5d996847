"""A network's answers to labelled pictures, and how far they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

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
        seconds: wall time.
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
            logs = _of_two(self.logits.double(), self.outputs).log_softmax(-1)
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


def _of_two(logits: Tensor, outputs: Outputs) -> Tensor:
    """Logits whose softmax are the probabilities, also of one output."""
    return torch.cat([torch.zeros_like(logits), logits], -1) if outputs == "logit" else logits
