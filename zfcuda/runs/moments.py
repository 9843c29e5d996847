"""Mean and spread of many arrays, one in memory at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Moments"]


@dataclass(eq=False)
class Moments:
    """Mean and standard deviation of arrays as they come (Welford 1962), each element by itself;
    what is not finite is left out."""

    count: Tensor
    mean: Tensor
    squares: Tensor

    @classmethod
    def like(cls, values: Tensor) -> Moments:
        return cls(*(torch.zeros_like(values) for _ in range(3)))

    def add(self, values: Tensor) -> None:
        finite = values.isfinite()
        self.count += finite
        step = torch.where(finite, values - self.mean, 0)
        self.mean += step / self.count.clamp_min(1)
        self.squares += torch.where(finite, step * (values - self.mean), 0)

    def found(self) -> Tensor:
        return torch.where(self.count > 0, self.mean, math.nan)

    def spread(self) -> Tensor:
        return torch.where(
            self.count > 1, (self.squares / (self.count - 1).clamp_min(1)).sqrt(), math.nan
        )
