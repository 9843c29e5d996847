"""How a network is trained: the paper's settings, and what of them was decided here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from numbers import Integral

import torch
from torch import Tensor, nn

from zfcuda.data.preprocessing import Preprocessing

_PAPERS_RANGE = 128.0  # the paper's inputs are "roughly in the [-128, 128] range"


@dataclass(frozen=True)
class Recipe:
    """The paper's training (Zeiler & Fergus 2014, section 3.1), its numbers as defaults.

    "Lowered by hand when the validation error stalls" became a rule: after `patience` epochs in
    which it was not below its best, the rate is multiplied by `factor`; the third time,
    training ends. Where that takes too long, the rate is lowered in time for the end: the first
    time when two thirds of the epochs or minutes are over, the last third divided evenly among all
    `lowerings`.

    Attributes:
        epochs: at most so many (the paper: 70).
        minutes: no epoch is begun that would probably end later, all of a run's sittings taken
            together; None for no limit.
        batch: pictures a step.
        rate, momentum: of stochastic gradient descent.
        factor, patience, lowerings: of the plateau rule; training ends instead of lowering the rate
            more than `lowerings` times.
        radius: no convolution filter's root mean square exceeds this: after every step, larger ones
            are scaled back to it. For the first layer it is rescaled with the range of the input,
            see `first_radius`.
        seed: of the weights, the order, the crops and the dropout: everything random is drawn anew
            for every (seed, epoch, step), so that a run can be continued anywhere.
    """

    epochs: int = 70
    minutes: float | None = None
    batch: int = 128
    rate: float = 1e-2
    momentum: float = 0.9
    factor: float = 0.1
    patience: int = 5
    lowerings: int = 2
    radius: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # NumPy's ints, which JSON does not know
            value = getattr(self, field.name)
            if isinstance(value, Integral):
                object.__setattr__(self, field.name, int(value))
        for name in ("epochs", "batch", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        for name in ("rate", "radius"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} {getattr(self, name)}: expected a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum}: expected 0 to below 1")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor {self.factor}: expected a number between 0 and 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes {self.minutes}: expected a positive number")
        if self.lowerings < 0 or self.seed < 0:
            raise ValueError(
                f"lowerings {self.lowerings}, seed {self.seed}: expected numbers from 0"
            )

    def first_radius(self, preprocessing: Preprocessing) -> float:
        """The first layer's radius: `radius` was chosen for inputs up to 128.

        A filter that reads inputs k times smaller needs weights k times larger for the same
        response. Deeper layers read responses, whose range is the same either way.
        """
        largest = max(
            max(abs(mean), abs(preprocessing.scale - mean)) / std
            for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)
        )
        return self.radius * _PAPERS_RANGE / largest


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        epoch: its number, from 1.
        rate: the learning rate.
        training_loss, training_accuracy: means over the epoch, with dropout, while learning.
        validation_loss, validation_accuracy: after it.
        rescaled: how many filters the radius scaled back, a step.
        seconds: wall time of the training part; seconds_in_all with validation and checkpoint.
        cpu_seconds: processor time of all threads, validation included.
        images: pictures trained on.
    """

    epoch: int
    rate: float
    training_loss: float
    training_accuracy: float
    validation_loss: float
    validation_accuracy: float
    rescaled: float
    seconds: float
    seconds_in_all: float
    cpu_seconds: float
    images: int


def next_rate(rows: Sequence[Epoch], recipe: Recipe) -> float | None:
    """The learning rate of the epoch after `rows`, or None if there is to be none.

    It follows from the records alone, so that a continued run needs no other state.
    """
    if len(rows) >= recipe.epochs:
        return None
    if rows and recipe.minutes is not None:
        spent = sum(row.seconds_in_all for row in rows)
        if spent + rows[-1].seconds_in_all > 60 * recipe.minutes:
            return None
    lowered, waited, best, spent = 0, 0, -math.inf, 0.0
    for done, row in enumerate(rows, 1):
        waited = 0 if row.validation_accuracy > best else waited + 1
        best, spent = max(best, row.validation_accuracy), spent + row.seconds_in_all
        if waited == recipe.patience or _is_time(done, spent, lowered, recipe):
            lowered, waited = lowered + 1, 0
    return None if lowered > recipe.lowerings else recipe.rate * recipe.factor**lowered


def _is_time(done: int, spent: float, lowered: int, recipe: Recipe) -> bool:
    """Whether the rate, lowered so often already, has to be lowered now to end low, after so many
    epochs and seconds."""
    if lowered >= recipe.lowerings:
        return False
    latest = Fraction(2, 3) + Fraction(lowered, 3 * recipe.lowerings)
    timed = recipe.minutes is not None and spent >= 60 * recipe.minutes * latest
    return timed or done >= recipe.epochs * latest


class FilterRadius:
    """Scales every convolution filter whose root mean square exceeds its radius back to it.

    The model's first convolution is taken for the one that reads the picture.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, preprocessing: Preprocessing) -> None:
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        self._radii = [
            (layer.weight, recipe.first_radius(preprocessing) if i == 0 else recipe.radius)
            for i, layer in enumerate(convolutions)
        ]

    @torch.no_grad()
    def apply(self) -> Tensor:
        """Rescale, and return how many filters were."""
        rescaled = torch.zeros(())
        for weight, radius in self._radii:
            rms = weight.square().mean((1, 2, 3), keepdim=True).sqrt()
            over = rms > radius
            weight.mul_(torch.where(over, radius / rms, 1.0))
            rescaled = rescaled + over.sum().to(rescaled.device)
        return rescaled
