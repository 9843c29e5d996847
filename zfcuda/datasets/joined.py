"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from zfcuda.datasets.examples import Examples

__all__ = ["Joined"]


class Joined(Examples):
    """The pictures of all ``parts``, one part after the other.

    Args:
        parts: of one kind: their class names and preprocessing are the first one's.

    Raises:
        ValueError: no parts, or class names that differ.
    """

    def __init__(self, parts: Sequence[Examples]) -> None:
        if len({tuple(part.class_names) for part in parts}) != 1:
            raise ValueError(f"{len(parts)} parts to join: expected some, of the same classes")
        self.parts = tuple(parts)
        self.class_names, self.preprocessing = parts[0].class_names, parts[0].preprocessing
        self._starts = torch.tensor([0, *accumulate(map(len, parts))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def labels(self) -> Tensor:
        return torch.cat([part.labels for part in self.parts])

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        owners = torch.searchsorted(self._starts, indices, right=True) - 1
        found = []
        for number, part in enumerate(self.parts):
            here = (owners == number).nonzero()[:, 0]
            if len(here):
                found.append((here, *part.batch(indices[here] - self._starts[number], rng)))
        if len(found) == 1:
            return found[0][1:]
        if not found:
            return self.parts[0].batch(indices, rng)
        order = torch.cat([one[0] for one in found]).argsort()
        first, second = (torch.cat([one[i] for one in found])[order] for i in (1, 2))
        return first, second
