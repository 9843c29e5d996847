"""How much an occluder takes away, and in how small a part of the image: one image's occlusion map
in a few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from zfcuda.results.base import probabilities_of
from zfcuda.results.occlusion import OcclusionResult

__all__ = ["Sensitivity", "localisation", "sensitivity_of"]


@dataclass(frozen=True)
class Sensitivity:
    """One image's occlusion map in numbers.

    Attributes:
        probability: of the target class without occluder, P_0.
        mean: of the drops P_0 - P_p over all positions p.
        largest: drop.
        strongest: the position of the largest drop (of equal ones the first).
        changed: share of the positions where another class is the most probable than without
            occluder, or a single probability is on the other side of one half; NaN of values.
        localisation: see :func:`localisation`.
    """

    probability: float
    mean: float
    largest: float
    strongest: int
    changed: float
    localisation: float


def sensitivity_of(result: OcclusionResult, image: int = 0) -> Sensitivity:
    """The numbers of one image, in float64."""
    target, base = result.target[image], result.base_logits[image].double()
    before = probabilities_of(base, result.outputs)[target]
    drops = before - result.target_probability[image].double()
    strongest = int(drops.argmax())
    return Sensitivity(
        float(before),
        float(drops.mean()),
        float(drops[strongest]),
        strongest,
        math.nan
        if result.outputs == "value"
        else float((~result.unchanged[image]).double().mean()),
        float(localisation(drops)),
    )


def localisation(drops: Tensor) -> Tensor:
    """How few positions carry the drop: 1 - (sum w)^2 / (P sum w^2), with w = max(0, drop).

    The fraction, known as the participation ratio, is the share of the positions over which an even
    drop would have to be spread to be as concentrated. So 0 means that every position takes away
    the same; 1 - 1/P that a single one takes away everything. Occluders larger than their stride
    overlap, which sets an upper limit below that: only values of the same occluder, stride and
    image size compare.

    Args:
        drops: [...,P], what each position takes away from the score.

    Returns:
        [...]; NaN where no position takes anything away.
    """
    weights = drops.clamp_min(0)
    # Over the largest, so that no square of a small drop is lost.
    weights = weights / weights.amax(-1, keepdim=True)
    return 1 - weights.sum(-1) ** 2 / (drops.shape[-1] * (weights**2).sum(-1))
