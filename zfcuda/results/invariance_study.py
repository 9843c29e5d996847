"""Several images under several families of transformations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from zfcuda.results.base import Result
from zfcuda.results.checks import expect_shape
from zfcuda.results.invariance import InvarianceResult


@dataclass(frozen=True, eq=False)
class InvarianceStudy(Result):
    """Several images under several families of transformations (Zeiler & Fergus 2014, figure 5).

    Attributes:
        names: N, one for each image.
        images: [N,C,H,W], the network inputs.
        layers: whose features are compared, early ones first.
        experiments: by family ("vertical translation", ...), what the model says and how far the
            features move; each of all N images.
        examples: by family [E,C,H,W], the first image under some of the transformations.
        example_values: by family [E], which ones: pixels down or right, factors, degrees.
    """

    names: tuple[str, ...]
    images: Tensor
    layers: tuple[str, ...]
    experiments: dict[str, InvarianceResult]
    examples: dict[str, Tensor]
    example_values: dict[str, Tensor]
    _figure = "invariance_study"

    def __post_init__(self) -> None:
        expect_shape("images", self.images, len(self.names), None, None, None)
        for family, result in self.experiments.items():
            expect_shape(
                f"experiments[{family!r}].logits", result.logits, len(self.names), None, None
            )
            expect_shape(
                f"examples[{family!r}]", self.examples[family], None, *self.images.shape[1:]
            )
            expect_shape(
                f"example_values[{family!r}]",
                self.example_values[family],
                len(self.examples[family]),
            )
            unknown = {*self.layers} - result.distances.keys()
            if unknown:
                raise ValueError(f"experiments[{family!r}] lacks the layers {sorted(unknown)}")

    @classmethod
    def _restore(cls, settings: dict[str, Any]) -> Self:
        experiments = {
            family: InvarianceResult(**result) for family, result in settings["experiments"].items()
        }
        return cls(**{**settings, "experiments": experiments})
