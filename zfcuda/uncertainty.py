"""How certain a network is, and how far that can be trusted (the talk's supplement)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zfcuda._running import (
    base_pass,
    check_input,
    evaluating,
    memory_limit,
    progress_bar,
    to_result,
)
from zfcuda.datasets import Examples
from zfcuda.results import Result
from zfcuda.results.checks import expect_shape
from zfcuda.results.scores import of_target

__all__ = ["Reliability", "UncertaintyResult", "uncertainty_of"]

_READ = 250  # pictures at a time


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


@dataclass(frozen=True, eq=False)
class UncertaintyResult(Result):
    """A network's answers to N labelled pictures, and the M pictures it is least certain of.

    Attributes:
        logits: [N,K].
        labels: int64 [N], the true classes.
        numbers: int64 [M], the least certain pictures' places among the N, least certain first.
        images: [M,C,H,W], those pictures as network input.
        bins: of the reliability curve.
        seconds: wall time.
    """

    logits: Tensor
    labels: Tensor
    numbers: Tensor
    images: Tensor
    bins: int
    seconds: float
    _figure = "uncertainty"

    def __post_init__(self) -> None:
        expect_shape("logits", self.logits, None, None)
        expect_shape("labels", self.labels, len(self.logits))
        expect_shape("numbers", self.numbers, None)
        expect_shape("images", self.images, len(self.numbers), None, None, None)
        if self.bins < 1:
            raise ValueError(f"bins must be at least 1, got {self.bins}")

    @property
    def probabilities(self) -> Tensor:
        """float64 [N,K], the softmax of the logits."""
        return self.logits.double().softmax(-1)

    @property
    def entropy(self) -> Tensor:
        """float64 [N], nats: 0 when certain, ln K when all classes are equally likely."""
        return torch.special.entr(self.probabilities).sum(-1)

    @property
    def predicted(self) -> Tensor:
        """int64 [N], the most probable classes."""
        return self.logits.argmax(-1)

    @property
    def correct(self) -> Tensor:
        """bool [N], whether the prediction is the label."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """The share of pictures that the network gets right."""
        return float(self.correct.double().mean())

    @property
    def cross_entropy(self) -> float:
        """The mean negative log-likelihood of the labels, nats."""
        return float(-of_target(self.logits.double().log_softmax(-1), self.labels).mean())

    @property
    def confusion(self) -> Tensor:
        """int64 [K,K], pictures of each class (row) by predicted class (column)."""
        classes = self.logits.shape[1]
        pairs = self.labels * classes + self.predicted
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


@torch.inference_mode(False)  # nothing made here is an inference tensor
def uncertainty_of(
    model: nn.Module,
    examples: Examples,
    most: int = 8,
    bins: int = 15,
    max_memory: int | None = None,
    progress: bool = False,
) -> UncertaintyResult:
    """The network's answers to a labelled data set: how uncertain, how often wrong, how far its
    probabilities can be taken at their word.

    The uncertainty of an answer is the entropy of its probabilities. Pictures are read a few
    hundred at a time, unvaried; only their logits and the ``most`` least certain ones are kept.

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        examples: the pictures, best of a validation or test part;
            :class:`zfcuda.datasets.FromDataset` makes them of any ``torch.utils.data.Dataset``.
        most: how many of the least certain pictures are kept.
        bins: of the reliability curve.
        max_memory: bytes that the activations of one batch may take.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, an empty data set, or
            a label that the model has no logit for.
    """
    start = time.perf_counter()
    if len(examples) == 0:
        raise ValueError("examples must not be empty")
    if most < 1 or bins < 1:
        raise ValueError(f"most and bins must be at least 1, got {most} and {bins}")
    logits, labels = [], []
    kept = _Kept(most)
    with evaluating(model), progress_bar(len(examples), progress, "uncertainty") as advance:
        for x, truth in examples.batches(_READ):
            x = _as_weights(x, model)
            check_input(model, x)
            limit = memory_limit(max_memory, x.device)
            answer = to_result(base_pass(model, x, (), lambda _, maps: None, limit)[0])
            if int(truth.max()) >= answer.shape[1] or int(truth.min()) < 0:
                raise ValueError(
                    f"labels from {int(truth.min())} to {int(truth.max())}: the model has "
                    f"{answer.shape[1]} classes"
                )
            kept.add(x, answer)
            logits.append(answer)
            labels.append(truth)
            advance(len(x))
    return UncertaintyResult(
        logits=torch.cat(logits),
        labels=torch.cat(labels),
        numbers=kept.numbers,
        images=kept.images,
        bins=bins,
        seconds=time.perf_counter() - start,
    )


class _Kept:
    """The least certain pictures so far, least certain first, of equal ones the earlier."""

    def __init__(self, most: int) -> None:
        self._most, self._seen = most, 0
        self._entropy = torch.empty(0, dtype=torch.float64)
        self.numbers = torch.empty(0, dtype=torch.int64)
        self.images = torch.empty(0)

    def add(self, x: Tensor, logits: Tensor) -> None:
        entropy = torch.special.entr(logits.double().softmax(-1)).sum(-1).nan_to_num(-1.0)
        own = torch.arange(self._seen, self._seen + len(x))
        self._seen += len(x)
        # Of a batch at most as many as are kept: so no more pictures are copied.
        here = entropy.sort(descending=True, stable=True).indices[: self._most]
        pictures = to_result(x[here.to(x.device)]).clone()
        if len(self.numbers):
            pictures = torch.cat([self.images, pictures])
        joined = torch.cat([self._entropy, entropy[here]])
        numbers = torch.cat([self.numbers, own[here]])
        order = joined.sort(descending=True, stable=True).indices[: self._most]
        self._entropy, self.numbers = joined[order], numbers[order]
        self.images = pictures[order]


def _as_weights(x: Tensor, model: nn.Module) -> Tensor:
    """``x`` on the device and of the dtype of the model's weights."""
    weights = next(iter(model.parameters()), x)
    return x.to(weights.device, weights.dtype)
