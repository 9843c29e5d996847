"""What the model says about images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

from torch import Tensor

from zfcuda.results.base import (
    Answers,
    Outputs,
    entropy_of,
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
