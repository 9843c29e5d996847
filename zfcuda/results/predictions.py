"""What the model says about images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape


@dataclass(frozen=True, eq=False)
class Predictions(Result):
    """What the model says about N images.

    Attributes:
        logits: [N,K], the model's output.
    """

    logits: Tensor
    _figure = "prediction"

    def __post_init__(self) -> None:
        expect_shape("logits", self.logits, None, None)

    @property
    def probabilities(self) -> Tensor:
        """[N,K], the softmax of the logits."""
        return self.logits.softmax(-1)

    @property
    def entropy(self) -> Tensor:
        """[N], entropy of the probabilities in nats: 0 when certain, ln K when uniform."""
        return torch.special.entr(self.probabilities).sum(-1)

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The ``k`` most probable classes: probabilities [N,k], descending, and int64 labels [N,k].

        Raises:
            ValueError: ``k`` is not between 1 and K.
        """
        if not 1 <= k <= self.logits.shape[1]:
            raise ValueError(f"k must be between 1 and {self.logits.shape[1]} classes, got {k}")
        probabilities, labels = self.probabilities.topk(k)
        return probabilities, labels
