"""What a training run leaves behind, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor

from zfcuda.results.base import Result, wilson


@dataclass(frozen=True, eq=False)
class TrainingResult(Result):
    """A training run of E epochs over K classes; curves are float64 [E].

    Attributes:
        epoch: int64 [E], 1 to E.
        rate: the learning rate.
        training_loss, training_accuracy: means over each epoch, with dropout, while learning.
        validation_loss, validation_accuracy: after each epoch.
        rescaled: how many filters a step the radius scaled back.
        seconds: wall time of each epoch's training part; cpu_seconds: processor time of all threads
            with validation.
        images: int64 [E], pictures trained on.
        best: the chosen epoch, that of the lowest validation error.
        test_loss, test_accuracy: of the chosen epoch, on pictures used for nothing else, if the
            test part was read once.
        confusion: int64 [K,K], test pictures of each class (row) by predicted class (column).
        class_names: in label order.
        settings: model, data, recipe, threads, versions.
        weights_sha256: of the weights file.
        test_read: after how many epochs the test part was read, each time; more than one number
            where a training that had ended went on. Empty: not known (zfcuda 0.1.0 did not tell).
    """

    epoch: Annotated[Tensor, "E"]
    rate: Annotated[Tensor, "E"]
    training_loss: Annotated[Tensor, "E"]
    training_accuracy: Annotated[Tensor, "E"]
    validation_loss: Annotated[Tensor, "E"]
    validation_accuracy: Annotated[Tensor, "E"]
    rescaled: Annotated[Tensor, "E"]
    seconds: Annotated[Tensor, "E"]
    seconds_in_all: Annotated[Tensor, "E"]
    cpu_seconds: Annotated[Tensor, "E"]
    images: Annotated[Tensor, "E"]
    best: int
    test_loss: float
    test_accuracy: float
    confusion: Annotated[Tensor, "K K"]
    class_names: Annotated[tuple[str, ...], "K"]
    settings: dict[str, Any]
    weights_sha256: str
    test_read: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.best <= len(self.epoch):
            raise ValueError(
                f"best must be between 1 and {len(self.epoch)} epochs, got {self.best}"
            )

    @property
    def images_per_second(self) -> Tensor:
        """[E], of the training part."""
        return self.images / self.seconds

    @property
    def test_interval(self) -> Tensor:
        """float64 [2], Wilson's 95 % interval of ``test_accuracy``."""
        return wilson(self.test_accuracy, int(self.confusion.sum()))

    @property
    def reading(self) -> str:
        """How often the test part was read, in words."""
        if not self.test_read:
            return "read at least once"
        if len(self.test_read) == 1:
            return "read once"
        *before, last = map(str, self.test_read)
        return f"read after {', '.join(before)} and {last} epochs"
