"""What trainings leave behind, as numbers: curves, variants of a network, linear probes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from zfcuda.results.base import Result, wilson, with_interval
from zfcuda.storage.files import text_table


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


@dataclass(frozen=True, eq=False)
class AblationResult(Result):
    """V variants of a network, each trained with the same budget from S seeds (table 3).

    Attributes:
        variants: their names, the network as it is first.
        parameters: int64 [V].
        multiplications: int64 [V], multiply-adds of convolutions and linear layers for a picture.
        seeds: int64 [S].
        training_error: float64 [V,S], in the chosen epoch, while learning, with dropout and varied
            pictures.
        validation_error, test_error: float64 [V,S], of the chosen epoch: that of the lowest
            validation error. The test part is read at the end of each training.
        epoch: int64 [V,S], the chosen epochs.
        seconds: float64 [V,S], wall time of the trainings.
        pictures: of the training, validation and test parts.
        data: what they are.
        recipe: the training's settings, the same for all.
        threads: of torch.
    """

    variants: Annotated[tuple[str, ...], "V"]
    parameters: Annotated[Tensor, "V"]
    multiplications: Annotated[Tensor, "V"]
    seeds: Annotated[Tensor, "S"]
    training_error: Annotated[Tensor, "V S"]
    validation_error: Annotated[Tensor, "V S"]
    test_error: Annotated[Tensor, "V S"]
    epoch: Annotated[Tensor, "V S"]
    seconds: Annotated[Tensor, "V S"]
    pictures: tuple[int, ...]
    data: str
    recipe: dict[str, Any]
    threads: int

    @property
    def budget(self) -> str:
        """What every variant was given, in words."""
        seeds = f", {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{self.recipe['epochs']} epochs of {self.pictures[0]:,} pictures{seeds}"

    @property
    def interval(self) -> Tensor:
        """float64 [V,2], between what the mean test error lies: of a single seed Wilson's 95 %
        interval, by the number of test pictures; of several, a standard error over seeds to either
        side. :attr:`interval_name` says which."""
        mean = self.test_error.mean(1)
        if len(self.seeds) == 1:
            return wilson(mean, self.pictures[2])
        error = self.test_error.std(1) / len(self.seeds) ** 0.5
        return torch.stack([mean - error, mean + error], 1).clamp(0, 1)

    @property
    def interval_name(self) -> str:
        """What :attr:`interval` is, in words."""
        seeds = len(self.seeds)
        return "95% interval" if seeds == 1 else f"± standard error over {seeds} seeds"

    def table(self, tablefmt: str = "simple") -> str:
        """Table 3 as text; ``tablefmt`` as tabulate has it."""
        rows = [
            [
                name,
                f"{int(self.parameters[i]):,}",
                f"{int(self.multiplications[i]) / 1e6:.1f} M",
                f"{self.training_error[i].mean():.1%}",
                f"{self.validation_error[i].mean():.1%}",
                with_interval(self.test_error[i].mean(), self.interval[i]),
            ]
            for i, name in enumerate(self.variants)
        ]
        heads = ["network", "parameters", "multiply-adds", "training", "validation"]
        heads += [f"test error ({self.interval_name})"]
        align = ("left", *["right"] * 5)
        return text_table(rows, heads, tablefmt, align)


PIXELS = "input pixels"  # a row of the result that is no layer: no module's name has a space


@dataclass(frozen=True, eq=False)
class ProbeResult(Result):
    """Linear classifiers on frozen features (Zeiler & Fergus 2014, table 7).

    L layers (the first may be :data:`PIXELS`), R strengths of regularisation.

    Attributes:
        layers: the layers' names, by depth.
        shapes: each layer's output for a picture, (C,H,W).
        pooled: (C,h,w), what of it a classifier was given.
        regularisation: float64 [R], scikit-learn's C, ascending: smaller is stronger.
        chosen: int64 [L], which of them was chosen, by the validation part.
        validation_accuracy: float64 [L,R].
        training_accuracy, accuracy: float64 [L], of the chosen classifier on the training and on
            the test part.
        converged: bool [L,R], whether the fit ended before its limit of steps.
        pictures: of the training, validation and test parts.
        chance: the share of the test part's most frequent class.
        network_accuracy: that of the network itself on the test part; NaN where its classes are not
            those of the data.
    """

    layers: Annotated[tuple[str, ...], "L"]
    shapes: tuple[tuple[int, ...], ...]
    pooled: tuple[tuple[int, ...], ...]
    regularisation: Annotated[Tensor, "R"]
    chosen: Annotated[Tensor, "L"]
    validation_accuracy: Annotated[Tensor, "L R"]
    training_accuracy: Annotated[Tensor, "L"]
    accuracy: Annotated[Tensor, "L"]
    converged: Annotated[Tensor, "L R"]
    pictures: tuple[int, ...]
    chance: float
    network_accuracy: float
    class_names: tuple[str, ...]
    seconds: float

    @property
    def features(self) -> list[int]:
        """How many numbers each classifier was given of a picture."""
        return [math.prod(shape) for shape in self.pooled]

    @property
    def interval(self) -> Tensor:
        """float64 [L,2], Wilson's 95 % interval of ``accuracy``, by the number of test pictures."""
        return wilson(self.accuracy, self.pictures[2])

    def table(self, tablefmt: str = "simple") -> str:
        """Table 7 as text; ``tablefmt`` as tabulate has it."""
        rows = [
            [
                layer,
                "×".join(map(str, self.shapes[i])),
                "×".join(map(str, self.pooled[i])),
                f"{float(self.regularisation[self.chosen[i]]):g}",
                f"{self.training_accuracy[i]:.1%}",
                f"{self.validation_accuracy[i, self.chosen[i]]:.1%}",
                with_interval(self.accuracy[i], self.interval[i]),
            ]
            for i, layer in enumerate(self.layers)
        ]
        heads = ["features", "output", "used", "C", "training", "validation", "test (95% interval)"]
        return text_table(rows, heads, tablefmt)
