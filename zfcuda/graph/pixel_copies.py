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
    numbered = [_digits_moved(function, x, axis) for axis in range(4)]
    if any(index is None for index, _ in numbered):
        return None
    (image, _), (channel, _), (row, filled), (column, _) = numbered
    rows, columns = row[0, 0].amax(1), column[0, 0].amax(0)
    none = (rows < 0)[:, None] | (columns < 0)
    wanted = (
        torch.arange(_IMAGES, device=x.device)[:, None, None, None],
        torch.arange(x.shape[0], device=x.device)[:, None, None],
        rows[:, None].expand_as(none),
        columns.expand_as(none),
    )
    found = (image, channel, row, column)
    if any((i != w.where(~none, -1)).any() for i, w in zip(found, wanted, strict=True)):
        return None
    fills = function(_ones_like(x))[filled].unique()
    if len(fills) > 1:
        return None
    places = (rows.cpu().numpy(), columns.cpu().numpy())
    return PixelCopy(call.name, function, *places, float(fills.sum())), (x,)


_IMAGES = 3
_DIGIT = 64  # small enough for every type of number


def _ones_like(x: Value) -> Tensor:
    return torch.ones(_IMAGES, *x.shape, dtype=x.dtype, device=x.device)


def _digits_moved(
    function: Callable[[Tensor], Tensor], x: Value, axis: int
) -> tuple[Tensor | None, Tensor | None]:
    """Where on an axis of [n,C,h,w] each element of a call's result comes from, -1 for one that is
    none of them, and which those are; in the maps' own type, for kernels round in it."""
    ones = _ones_like(x)
    shape = [-1 if d == axis else 1 for d in range(4)]
    places = torch.arange(ones.shape[axis], device=x.device)
    found = []
    for digit in (places // _DIGIT, places % _DIGIT):
        given = (digit + 1).view(shape).to(x.dtype) * ones
        moved, back = function(given), function(-given)
        if moved.dim() != 4 or len(moved) != _IMAGES or len(places) > _DIGIT**2:
            return None, None
        found.append((moved.long() - 1, moved == back))
    (high, filled), (low, _) = found
    return torch.where(filled, -1, high * _DIGIT + low), filled


def _copied(function: Any, others: tuple[Any, ...], named: dict[str, Any], x: Tensor) -> Tensor:
    return function(x, *others, **named)
