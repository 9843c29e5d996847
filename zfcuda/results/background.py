"""One object on several backgrounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor

from zfcuda.results.base import Answers, Outputs
from zfcuda.results.predictions import Predictions


@dataclass(frozen=True, eq=False)
class BackgroundResult(Answers):
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

    variants: Annotated[tuple[str, ...], "V"]
    images: Annotated[Tensor, "V C H W"]
    logits: Annotated[Tensor, "V K"]
    target: int
    projections: Annotated[dict[str, Tensor], "V C H W"]
    projection_change: Annotated[dict[str, Tensor], "projections: V"]
    units: Annotated[dict[str, Tensor], "projections: V 3"]
    activations: Annotated[dict[str, Tensor], "projections: V"]
    mask: Annotated[Tensor, "H W"]
    on_object: Annotated[dict[str, Tensor], "V"] = field(default_factory=dict)
    outputs: Outputs = "logits"
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

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
