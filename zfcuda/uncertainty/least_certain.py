"""The pictures that a network is least certain of."""

from __future__ import annotations

import torch
from torch import Tensor

from zfcuda.inference.checks import to_result


class LeastCertain:
    """The least certain pictures so far, least certain first, of equal ones the earlier.

    Attributes:
        numbers: int64 [M], their places among all pictures.
        images: [M,C,H,W], as results hold them.
    """

    def __init__(self, most: int) -> None:
        self._most, self._seen = most, 0
        self._entropy = torch.empty(0, dtype=torch.float64)
        self.numbers = torch.empty(0, dtype=torch.int64)
        self.images = torch.empty(0)

    def add(self, x: Tensor, entropy: Tensor) -> None:
        """The next pictures [N,C,H,W], and the entropy float64 [N] of the answers to them; NaN is
        the most certain."""
        entropy = entropy.nan_to_num(-1.0)
        own = torch.arange(self._seen, self._seen + len(x))
        self._seen += len(x)
        # Of a batch at most as many as are kept: so no more pictures are copied.
        here = entropy.sort(descending=True, stable=True).indices[: self._most]
        pictures = to_result(x[here.to(x.device)]).clone()
        if len(self.numbers):
            pictures = torch.cat([self.images, pictures])
        joined = torch.cat([self._entropy, entropy[here]])
        numbers = torch.cat([self.numbers, own[here]])
        order = joined.sort(descending=True, stable=True).indices[: self._most]
        self._entropy, self.numbers = joined[order], numbers[order]
        self.images = pictures[order]
