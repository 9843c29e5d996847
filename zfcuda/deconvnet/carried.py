"""What both engines leave: units with their values, carried down to the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from zfcuda.cones.descent import Projected


@dataclass(frozen=True, eq=False)
class Carried:
    """Units of one layer, as many of every image.

    Attributes:
        places: int64 [n,k,3], (channel, row, column).
        activations: [n,k], their values.
        projected: n*k, image by image.
        size: of the layer, (maps, rows, columns).
    """

    places: Tensor
    activations: Tensor
    projected: list[Projected]
    size: tuple[int, ...]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of all batches of images, in their order."""
        return cls(
            torch.cat([part.places for part in parts]),
            torch.cat([part.activations for part in parts]),
            [projected for part in parts for projected in part.projected],
            parts[0].size,
        )


@dataclass(frozen=True, eq=False)
class CarriedListed:
    """P units of one layer, of any images, filled in as batches of images are done.

    Attributes:
        activations: [P], their values.
        projected: P of them.
    """

    activations: Tensor
    projected: list[Projected]

    @classmethod
    def none_yet(cls, x: Tensor, count: int) -> Self:
        """Room for ``count`` units of the images ``x`` [N,C,H,W]."""
        return cls(x.new_zeros(count), [nowhere(x, x.shape[1])] * count)

    def fill(
        self, numbers: np.ndarray, activations: Tensor, projected: Sequence[Projected]
    ) -> None:
        """Set the units with these ``numbers``, int64 [p]."""
        self.activations[numbers] = activations
        for number, one in zip(numbers, projected, strict=True):
            self.projected[number] = one


def nowhere(like: Tensor, channels: int) -> Projected:
    """A unit that depends on nothing: a patch [channels,0,0] of ``like``'s dtype and device."""
    return Projected((0, 0, 0, 0), like.new_empty(channels, 0, 0))
