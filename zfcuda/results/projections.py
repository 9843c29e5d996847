"""Units projected to the input, as whole pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from zfcuda.results.base import Result, expect_shape


@dataclass(frozen=True, eq=False)
class Patches(Result):
    """V units projected to the input, each as the patch of its image that it depends on (Zeiler &
    Fergus 2014, section 2.1).

    Outside its patch a unit's projection is zero; :meth:`full` pastes it in place.
    ``plot(preprocessing=...)``, with the network's own, draws projections and patches of the images
    in the colours that they stand for.

    Attributes:
        layer: int64 [V], each unit's layer, as an index into ``layers``.
        image: int64 [V], each unit's image.
        units: int64 [V,3], (channel, row, column); row and column are 0 in a layer of vectors and
            -1 where the whole map was projected.
        activations: [V], the units' values; of a whole map the largest.
        boxes: int64 [V,4], (y0, x0, y1, x1), half open, pixels: where the patches lie.
        values: [sum of C*h*w], the patches one after the other; see :meth:`patch`.
        images: [N,C,H,W], the network input.
    """

    layers: tuple[str, ...]
    layer: Annotated[Tensor, "V"]
    image: Annotated[Tensor, "V"]
    units: Annotated[Tensor, "V 3"]
    activations: Annotated[Tensor, "V"]
    boxes: Annotated[Tensor, "V 4"]
    values: Tensor
    images: Annotated[Tensor, "N C H W"]

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_shape("values", self.values, self._starts[-1])

    def __len__(self) -> int:
        return len(self.layer)

    @cached_property
    def _starts(self) -> list[int]:
        """Where each patch begins in ``values``, and where the last one ends."""
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).prod(1) * self.images.shape[1]
        return [0, *sizes.cumsum(0).tolist()]

    def patch(self, index: int) -> Tensor:
        """One unit's patch [C,h,w], a view of ``values``.

        Raises:
            IndexError: there is no such unit.
        """
        index = range(len(self))[index]
        y0, x0, y1, x1 = self.boxes[index].tolist()
        flat = self.values[self._starts[index] : self._starts[index + 1]]
        return flat.view(self.images.shape[1], y1 - y0, x1 - x0)

    def of(self, layer: str, image: int | None = None) -> Tensor:
        """int64, ascending, the indices of a layer's units (in one image).

        Raises:
            ValueError: the layer was not projected.
        """
        if layer not in self.layers:
            raise ValueError(f"layer {layer!r} was not projected; projected: {list(self.layers)}")
        own = self.layer == self.layers.index(layer)
        return (own if image is None else own & (self.image == image)).nonzero()[:, 0]

    def full(self, indices: int | slice | Sequence[int] | Tensor | None = None) -> Tensor:
        """The projections as pictures [V,C,H,W] (all, or those of ``indices``; one index gives
        [C,H,W])."""
        one = isinstance(indices, Integral)
        order = torch.arange(len(self))
        some: Any = indices
        some = [int(some)] if one else some  # a uint8 would be a mask
        chosen = order if indices is None else order[some]
        # calloc'ed: what no patch touches costs no page
        shape = (len(chosen), *self.images.shape[1:])
        pictures = torch.from_numpy(np.zeros(shape, self.values.numpy().dtype))
        boxes = self.boxes[chosen].tolist()
        for picture, index, (y0, x0, y1, x1) in zip(pictures, chosen.tolist(), boxes, strict=True):
            picture[:, y0:y1, x0:x1] = self.patch(index)
        return pictures[0] if one else pictures


@dataclass(frozen=True, eq=False)
class Projections(Result):
    """Units of some layers projected to the input (Zeiler & Fergus 2014, section 2.1).

    Attributes:
        columns: V labels, one per projected unit of each layer.
        units: per layer int64 [V,3], the unit as (channel, row, column); (channel, 0, 0) in a
            layer of vectors.
        activations: per layer [V], the units' values.
        projections: per layer [V,C,H,W], in network input space.
        images: [V,C,H,W], the network input each column belongs to.
        sizes: per layer (maps, rows, columns), 1 row and column in a layer of vectors; empty where
            an earlier version wrote the result.
    """

    layers: tuple[str, ...]
    columns: Annotated[tuple[str, ...], "V"]
    units: Annotated[dict[str, Tensor], "layers: V 3"]
    activations: Annotated[dict[str, Tensor], "layers: V"]
    projections: Annotated[dict[str, Tensor], "layers: V C H W"]
    images: Annotated[Tensor, "V C H W"]
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
