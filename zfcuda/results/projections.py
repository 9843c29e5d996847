"""Units projected to the input, as whole pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape


@dataclass(frozen=True, eq=False)
class Projections(Result):
    """Units of some layers projected to the input (Zeiler & Fergus 2014, section 2.1).

    Attributes:
        layers: the layers' names.
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
    columns: tuple[str, ...]
    units: dict[str, Tensor]
    activations: dict[str, Tensor]
    projections: dict[str, Tensor]
    images: Tensor
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _figure = "projection_grid"

    def __post_init__(self) -> None:
        expect_shape("images", self.images, len(self.columns), None, None, None)
        for layer in self.layers:
            expect_shape(f"units[{layer!r}]", self.units[layer], len(self.columns), 3)
            expect_shape(f"activations[{layer!r}]", self.activations[layer], len(self.columns))
            expect_shape(f"projections[{layer!r}]", self.projections[layer], *self.images.shape)
