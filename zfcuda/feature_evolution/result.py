"""Some maps' strongest activations during training, projected."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape


@dataclass(frozen=True, eq=False)
class EvolutionResult(Result):
    """For some maps, the strongest activation over a data set at each of E checkpoints, projected
    (Zeiler & Fergus 2014, figure 4).

    M is the number of a layer's maps that were followed, Z of the image's channels.

    Attributes:
        checkpoints: E names, in the order of training.
        layers: the layers' names.
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
        count: number of images.
        image_size: (H, W).
        seconds: wall time.
    """

    checkpoints: tuple[str, ...]
    layers: tuple[str, ...]
    channels: dict[str, Tensor]
    values: dict[str, Tensor]
    images: dict[str, Tensor]
    positions: dict[str, Tensor]
    boxes: dict[str, Tensor]
    projections: dict[str, Tensor]
    patches: dict[str, Tensor]
    difference: dict[str, float]
    count: int
    image_size: tuple[int, int]
    seconds: float
    _figure = "feature_evolution"

    def __post_init__(self) -> None:
        for layer in self.layers:
            expect_shape(f"channels[{layer!r}]", self.channels[layer], None)
            shape = len(self.checkpoints), len(self.channels[layer])
            expect_shape(f"values[{layer!r}]", self.values[layer], *shape)
            expect_shape(f"images[{layer!r}]", self.images[layer], *shape)
            expect_shape(f"positions[{layer!r}]", self.positions[layer], *shape, 2)
            expect_shape(f"boxes[{layer!r}]", self.boxes[layer], *shape, 4)
            expect_shape(
                f"projections[{layer!r}]", self.projections[layer], *shape, None, None, None
            )
            expect_shape(f"patches[{layer!r}]", self.patches[layer], *self.projections[layer].shape)
