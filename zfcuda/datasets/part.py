"""Some pictures of a larger set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.datasets.examples import Examples, generator

__all__ = ["Part", "by_share", "drawn"]


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


def by_share(labels: Tensor, order: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """So many of the numbers in ``order``, of each class its share of ``labels``, and the others.

    Where shares are no whole numbers the largest remainders are rounded up, of equal ones those of
    the rarer classes; one picture of each class stays.
    """
    sizes = labels.bincount()
    shares = sizes * count / len(labels)
    left = labels[order].bincount(minlength=len(sizes))
    wanted = torch.minimum(shares.floor().long(), (left - 1).clamp(min=0))
    ranked = sorted(range(len(sizes)), key=lambda c: (float(wanted[c] - shares[c]), int(sizes[c])))
    for label in ranked * 2:
        if int(wanted.sum()) < count and wanted[label] + 1 < left[label]:
            wanted[label] += 1
    # How many of its class come before each of them.
    before = F.one_hot(labels[order], len(sizes)).cumsum(0).gather(1, labels[order][:, None])[:, 0]
    chosen = before <= wanted[labels[order]]
    return order[chosen], order[~chosen]
