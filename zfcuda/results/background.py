"""One object on several backgrounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from zfcuda.results.base import Outputs, Result, check_outputs, expect_shape, probabilities_of
from zfcuda.results.predictions import Predictions


@dataclass(frozen=True, eq=False)
class BackgroundResult(Result):
    """One object on its own background, on plain colours and cut out (the talk's figures 3 and 4).

    Attributes:
        variants: V names, "original" first, "cut-out" last.
        images: [V,C,H,W], the network inputs.
        logits: [V,K].
        target: the class the probabilities are about.
        projections: per layer [V,C,H,W], each variant's strongest activation of its strongest map.
        projection_change: per layer [V], norm of (projection - the original's) over norm of the
            original's.
        units: per layer int64 [V,3], the projected unit as (channel, row, column).
        activations: per layer [V], the projected unit's value.
        mask: [H,W] in 0..1, 1 on the object.
        on_object: per layer [V], the share of the projection's energy (its sum of squares) that
            lies on the object; NaN for a projection that is zero.
        outputs: what the network's outputs are, as in :class:`Predictions`.
        sizes: per layer (maps, rows, columns), as in :class:`Projections`.
    """

    variants: tuple[str, ...]
    images: Tensor
    logits: Tensor
    target: int
    projections: dict[str, Tensor]
    projection_change: dict[str, Tensor]
    units: dict[str, Tensor]
    activations: dict[str, Tensor]
    mask: Tensor
    on_object: dict[str, Tensor] = field(default_factory=dict)
    outputs: Outputs = "logits"
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.variants)
        expect_shape("images", self.images, count, None, None, None)
        expect_shape("logits", self.logits, count, None)
        check_outputs(self.outputs, self.logits.shape[1])
        expect_shape("mask", self.mask, *self.images.shape[2:])
        for layer, projections in self.projections.items():
            expect_shape(f"projections[{layer!r}]", projections, *self.images.shape)
            expect_shape(f"projection_change[{layer!r}]", self.projection_change[layer], count)
            expect_shape(f"units[{layer!r}]", self.units[layer], count, 3)
            expect_shape(f"activations[{layer!r}]", self.activations[layer], count)
        for layer, shares in self.on_object.items():
            expect_shape(f"on_object[{layer!r}]", shares, count)

    @property
    def probabilities(self) -> Tensor:
        """[V,K]: the softmax of the logits, the sigmoid of one logit, or as the model gives them; a
        regression's values as they are."""
        return probabilities_of(self.logits, self.outputs)

    @property
    def probability_change(self) -> Tensor:
        """[V], probability of the target class minus the original's."""
        probability = self.probabilities[:, self.target]
        return probability - probability[0]

    def top(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """The ``k`` most probable classes: probabilities [V,k], descending, and int64 labels [V,k].

        Raises:
            ValueError: ``k`` is not between 1 and K.
        """
        return Predictions(self.logits, self.outputs).top(k)
