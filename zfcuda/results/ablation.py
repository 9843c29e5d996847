"""Variants of a network, what they cost and what they get wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from zfcuda.results.base import Result, wilson, with_interval
from zfcuda.storage.files import text_table


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
