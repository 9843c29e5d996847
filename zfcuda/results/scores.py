"""Scores of classes, and the one that is asked about."""

from __future__ import annotations

from torch import Tensor


def of_target(scores: Tensor, target: Tensor) -> Tensor:
    """Each image's entry of ``scores`` [N,...,K] for its ``target`` int64 [N], as [N,...]."""
    index = target.view(-1, *(1,) * (scores.dim() - 1)).expand(*scores.shape[:-1], 1)
    return scores.gather(-1, index)[..., 0]
