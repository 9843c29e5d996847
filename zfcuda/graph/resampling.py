"""Calls that make each row of a map of a few of its rows, and each column of a few columns: linear
and cubic interpolation, averages and maxima over adaptive windows.

Such a call is linear and *separable*: on an image that is a column of numbers times a row of
numbers it makes of each what it would make of it alone, so what it does to the columns and rows
with a single one in them is all that it does. Maxima are separable, too, and windows that hold a
one have it for their maximum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda.graph.calls import Call
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Sized, Value
from zfcuda.graph.reading import Reading, reader
from zfcuda.graph.rules import AdaptiveMaxPool, Identity, Resampling, Taps

_SEPARABLE = (
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
)  # fmt: skip
_SCALES = ("scales_h", "scales_w")


@reader("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa")
def _of_one_column(x: Any, size: Any, *_: Any, **__: Any) -> None:
    """
    Raises:
        Untraceable: torch takes one row for all, or not, by the order of memory.
    """
    if isinstance(x, Value) and size is not None and size[-1] == 1:
        raise Untraceable("antialiasing to a single column depends on the order of memory")


def pixels_resampled(
    call: Call, place: int, args: tuple[Any, ...], kwargs: dict[str, Any], result: Value
) -> Reading | None:
    """The rule of a call that resamples rows and columns; None for any other.

    Args:
        place: which of the call's results is read.
    """
    x = args[0] if args else None
    if (
        call.name not in _SEPARABLE
        or place
        or not isinstance(x, Value)
        or not (x.is_map and result.is_map)
    ):
        return None
    if x.dtype != result.dtype or x.shape[0] != result.shape[0]:
        return None
    if any(isinstance(a, Value | Sized | Tensor) for a in tree_leaves((args[1:], kwargs))):
        return None
    names = [a.name for a in call.function._schema.arguments]
    given = dict(zip(names[1:], args[1:], strict=False)) | kwargs
    if "output_size" not in given or not {*given} <= {*_SCALES, "output_size", "align_corners"}:
        return None
    function = functools.partial(_of_maps, call.function, call.several, given)
    rows, columns = (_taps(function, given, x, result, axis) for axis in (0, 1))
    if rows.still and columns.still:
        return Identity(), (x,)
    if call.several:
        return AdaptiveMaxPool(function, rows, columns), (x,)
    return Resampling(call.name, function, rows, columns), (x,)


def _taps(
    function: Callable[..., Tensor], given: dict[str, Any], x: Value, result: Value, axis: int
) -> Taps:
    """What the call takes along one axis, in the numbers that it calculates weights in.

    The other axis is as short as may be: of a number, made two of; or of two that stay two, where
    its size stays, for some kernels copy maps whose sizes do, whatever the scale.
    """
    size, wanted = x.shape[1 + axis], result.shape[1 + axis]
    stays = x.shape[2 - axis] == result.shape[2 - axis]
    before, after = (min(2, x.shape[2 - axis]),) * 2 if stays else (1, 2)
    sizes = [wanted, after] if axis == 0 else [after, wanted]
    alone = {"output_size": sizes}
    if _SCALES[1 - axis] in given:
        alone[_SCALES[1 - axis]] = None
    dtype = torch.promote_types(x.dtype, torch.float32)
    ones = torch.eye(size, dtype=dtype, device=x.device)
    # A tap of weight zero is read: it hands on what is not a number.
    nans = torch.where(ones > 0, torch.nan, 0.0).to(dtype)
    shape = (size, 1, size, before) if axis == 0 else (size, 1, before, size)
    weights, read = (
        function(each[:, None].unsqueeze(3 - axis).expand(shape).contiguous(), **alone)[:, 0]
        .select(2 - axis, 0)
        .T
        for each in (ones, nans)
    )
    read = read.isnan() | (weights != 0)
    return _listed(weights.double().cpu().numpy(), read.cpu().numpy())


def _listed(weights: np.ndarray, read: np.ndarray) -> Taps:
    """A matrix [n,size] as lists of its entries that are ``read``."""
    count = max(1, read.sum(1).max(initial=0))
    order = np.argsort(~read, 1, kind="stable")[:, :count]
    real = np.take_along_axis(read, order, 1)
    found = np.where(real, np.take_along_axis(weights, order, 1), 0.0)
    return Taps(np.where(real, order, -1), found, weights.shape[1])


def _of_maps(
    function: Callable[..., Any], several: bool, given: dict[str, Any], x: Tensor, **instead: Any
) -> Tensor:
    found = function(x, **{**given, **instead})
    return found[0] if several else found
