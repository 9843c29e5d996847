"""What is known of the maps' strongest activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from zfcuda.results.base import Result


@dataclass(frozen=True, eq=False)
class TopActivations(Result):
    """The k strongest activations of every map over a data set, one per image, and some of them
    projected (Zeiler & Fergus 2014, figure 2).

    C is the number of maps of a layer, M of those that were projected, Z of the image's channels.

    Attributes:
        values: per layer [C,k], descending; -inf where there were fewer than k images.
        images: per layer int64 [C,k], which image of the data set; -1 where there is none.
        positions: per layer int64 [C,k,2], (row, column) on the map; 0 in a layer of vectors.
        channels: per layer int64 [M], the maps that were projected, ascending.
        boxes: per layer int64 [M,k,4], (y0, x0, y1, x1), half open, pixels: a window of one size
            that holds the unit's receptive field; near the edge of the image it is moved inwards.
            Where there is no unit it means nothing, and what was seen there is zero.
        projections: per layer [M,k,Z,h,w], what the unit saw (:func:`zfcuda.project`), in network
            input space.
        patches: per layer [M,k,Z,h,w], the same windows of the images.
        difference: per layer, the largest |recorded - reproduced| activation of the projected units
            as a share of the largest recorded: what was projected is what was found. Infinite
            where an activation was no number when it was reproduced.
        undefined: per layer, the number of images that were left out of a map or more, because the
            map held a NaN.
    """

    layers: tuple[str, ...]
    values: Annotated[dict[str, Tensor], "layers: C k"]
    images: Annotated[dict[str, Tensor], "layers: C k"]
    positions: Annotated[dict[str, Tensor], "layers: C k 2"]
    channels: Annotated[dict[str, Tensor], "layers: M"]
    boxes: Annotated[dict[str, Tensor], "layers: M k 4"]
    projections: Annotated[dict[str, Tensor], "layers: M k Z h w"]
    patches: Annotated[dict[str, Tensor], "layers: M k Z h w"]
    difference: dict[str, float]
    undefined: dict[str, int]
    count: int
    image_size: tuple[int, int]
    seconds: float

    @property
    def k(self) -> int:
        """How many activations of each map."""
        return next(iter(self.values.values())).shape[1]


@dataclass(frozen=True, eq=False)
class EvolutionResult(Result):
    """For some maps, the strongest activation over a data set at each of E checkpoints, projected
    (Zeiler & Fergus 2014, figure 4).

    M is the number of a layer's maps that were followed, Z of the image's channels.

    Attributes:
        checkpoints: E names, in the order of training.
        channels: per layer int64 [M], the maps, ascending.
        values: per layer [E,M], the strongest activations; -inf where every image gave NaN.
        images: per layer int64 [E,M], the image of each; -1 where there is none.
        positions: per layer int64 [E,M,2], (row, column) on the map.
        boxes: per layer int64 [E,M,4], windows of the images, as in
            :class:`zfcuda.TopActivations`.
        projections: per layer [E,M,Z,h,w], what the unit saw, in network input space.
        patches: per layer [E,M,Z,h,w], the same windows of the images.
        difference: per layer, recorded against reproduced activations, the largest of all
            checkpoints; see :class:`zfcuda.TopActivations`.
    """

    checkpoints: Annotated[tuple[str, ...], "E"]
    layers: tuple[str, ...]
    channels: Annotated[dict[str, Tensor], "layers: M"]
    values: Annotated[dict[str, Tensor], "layers: E M"]
    images: Annotated[dict[str, Tensor], "layers: E M"]
    positions: Annotated[dict[str, Tensor], "layers: E M 2"]
    boxes: Annotated[dict[str, Tensor], "layers: E M 4"]
    projections: Annotated[dict[str, Tensor], "layers: E M Z h w"]
    patches: Annotated[dict[str, Tensor], "layers: E M Z h w"]
    difference: dict[str, float]
    count: int
    image_size: tuple[int, int]
    seconds: float
