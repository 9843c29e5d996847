"""What either way of running gives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zfcuda.results.base import Outputs
from zfcuda.results.occlusion import LayerSums


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found, on the CPU; as in :class:`OcclusionResult` unless said otherwise.

    Attributes:
        kept: of every position [N,P,...], the fields of :func:`zfcuda.cones.occluding.summary`.
    """

    base_logits: Tensor
    target: Tensor
    classes: Tensor | None
    kept: dict[str, Tensor]
    layers: tuple[LayerSums, ...]
    outputs: Outputs
