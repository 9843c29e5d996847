"""Calls that put pixels where they were not: padding, cropping, strides, flipping, rolling, nearest
resampling. What such a call copies is what it does to numbered rows and columns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda.graph.calls import Call
from zfcuda.graph.nodes import PixelCopy, Sized, Value
from zfcuda.graph.reading import Reading

_COPYING = (
    "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "slice", "flip", "roll",
    "upsample_nearest2d", "_upsample_nearest_exact2d", "index",
)  # fmt: skip


def pixels_copied(
    call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], result: Value
) -> Reading | None:
    """The rule of a call that makes every pixel a copy of one of its maps' rows and columns, all
    channels alike: what it copies is what it does to numbered rows and columns."""
    x = args[0] if args else None
    if call.name not in _COPYING or not isinstance(x, Value) or not (x.is_map and result.is_map):
        return None
    if x.dtype != result.dtype or x.shape[0] != result.shape[0]:
        return None
    others = (*args[1:], *kwargs.values())
    if any(isinstance(a, Value | Sized) for a in tree_leaves(others)):
        return None
    function = functools.partial(_copied, call.function, args[1:], kwargs)
    ones = torch.ones(_IMAGES, *x.shape, dtype=x.dtype, device=x.device)
    plain = function(ones)
    if plain.dim() != 4 or len(plain) != _IMAGES or max(ones.shape) > _DIGIT**2:
        return None
    filled = plain == function(-ones)
    found = [_moved(function, ones, axis).masked_fill_(filled, -1) for axis in range(4)]
    row, column = found[2:]
    rows, columns = row[0, 0].amax(1), column[0, 0].amax(0)
    none = (rows < 0)[:, None] | (columns < 0)
    wanted = (
        torch.arange(_IMAGES, device=x.device)[:, None, None, None],
        torch.arange(x.shape[0], device=x.device)[:, None, None],
        rows[:, None].expand_as(none),
        columns.expand_as(none),
    )
    if any((i != w.where(~none, -1)).any() for i, w in zip(found, wanted, strict=True)):
        return None
    fills = plain[filled].unique()
    if len(fills) > 1:
        return None
    places = (rows.cpu().numpy(), columns.cpu().numpy())
    return PixelCopy(call.name, function, *places, float(fills.sum())), (x,)


_IMAGES = 3
_DIGIT = 64  # small enough for every type of number


def _moved(function: Callable[[Tensor], Tensor], ones: Tensor, axis: int) -> Tensor:
    """Where on an axis each element of a call's result comes from; in digits, and in the maps' own
    type, for kernels round in it."""
    shape = [-1 if d == axis else 1 for d in range(4)]
    places = torch.arange(ones.shape[axis], device=ones.device)
    digits = [places % _DIGIT] if len(places) <= _DIGIT else [places % _DIGIT, places // _DIGIT]
    given = ((digit + 1).view(shape).to(ones.dtype) * ones for digit in digits)
    low, *high = (function(numbers).long() - 1 for numbers in given)
    return low + _DIGIT * high[0] if high else low


def _copied(function: Any, others: tuple[Any, ...], named: dict[str, Any], x: Tensor) -> Tensor:
    return function(x, *others, **named)
