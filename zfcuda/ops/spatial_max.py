"""The largest activation of every map."""

from __future__ import annotations

import torch
from torch import Tensor

from zfcuda.ops.library import define, kernels, no_derivative


def spatial_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest activation of every map and where it is, in one pass (Zeiler & Fergus 2014,
    figure 2).

    Args:
        x: [N,C,H,W].

    Returns:
        ``(values, places)``, both [N,C]; a place is the int64 number ``row * W + column``. The
        first maximum in raster order counts; a map that holds a NaN has the value NaN, at its
        first one.

    Raises:
        ValueError: wrong rank, maps without elements.
        TypeError: a dtype that is not floating point.
    """
    return kernels.spatial_max(x)


define(
    "spatial_max",
    lambda x: (x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.int64)),
)
no_derivative("spatial_max", "finding maxima is a forward experiment; detach x")
