"""Some pictures of a larger set."""

from __future__ import annotations

import torch
from torch import Tensor

from zfcuda.datasets.examples import Examples, generator

__all__ = ["Part", "drawn"]


class Part(Examples):
    """The pictures of ``examples`` with these numbers, in this order.

    Args:
        examples: any.
        numbers: int64 [n], positions in ``examples``.
    """

    def __init__(self, examples: Examples, numbers: Tensor) -> None:
        self.examples, self.numbers = examples, numbers
        self.class_names, self.preprocessing = examples.class_names, examples.preprocessing

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def labels(self) -> Tensor:
        return self.examples.labels[self.numbers]

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return self.examples.batch(self.numbers[indices], rng)


def drawn(examples: Examples, count: int | None, seed: int = 0) -> Examples:
    """``count`` pictures of ``examples``, drawn by ``seed`` and in their own order; all of them
    where there are no more, or for None.

    Raises:
        ValueError: ``count`` below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} pictures: expected at least 1")
    if count is None or count >= len(examples):
        return examples
    order = torch.randperm(len(examples), generator=generator(seed))
    return Part(examples, order[:count].sort().values)
