"""Reductions of whole maps that are written in several calls."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.calls import Call
from zfcuda.graph.nodes import Node, Value, values_in

aten = torch.ops.aten

# ``function(x, dims, keepdim)`` over several axes; those of one axis give places besides.
_REDUCTIONS = {
    "mean": aten.mean.dim,
    "sum": aten.sum.dim_IntList,
    "amax": aten.amax.default,
    "amin": aten.amin.default,
    "logsumexp": aten.logsumexp.default,
    "max": aten.amax.default,
    "min": aten.amin.default,
}


@dataclass(frozen=True, eq=False)
class InTurn:
    """A call of what another makes of its first argument, as a function of that."""

    first: Node
    second: Node

    def __call__(self, x: Tensor) -> Tensor:
        for call in (self.first, self.second):
            x = call.function(x, *call.args[1:], **call.kwargs)
        return x


def of_whole_maps(call: Call) -> Call | None:
    """The reduction over several axes that gives what a call gives over one of them; None where it
    is no reduction."""
    function = _REDUCTIONS.get(call.name)
    return None if function is None else replace(call, function=function, several=False)


def dims_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int] | None:
    """Over which axes a reduction goes; None where its arguments do not say."""
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    dims = [dims] if type(dims) is int else dims
    told = isinstance(dims, tuple | list) and all(type(d) is int for d in dims)
    return [*dims] if told else None


def one_axis_after_the_other(
    below: Node, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Value | None:
    """What a reduction of a reduction of maps [n,C,h,w] reduces, where both together are the one of
    all rows and columns: ``x.mean(3).mean(2)``. It may be maps in another layout.

    Args:
        below: the call that makes what is reduced.
        target, args, kwargs: of the reduction.
    """
    first, second = dims_of(below.args, below.kwargs), dims_of(args, kwargs)
    given = values_in((below.args, below.kwargs))
    if below.target != target or below.custom or len(given) != 1:
        return None
    if getattr(below.function, "place", 0) or not given[0].is_map or None in (first, second):
        return None
    kept = len(below.shape or ()) == 3
    first = [d % 4 for d in first]
    second = [d % (4 if kept else 3) for d in second]
    if not kept:  # the axis that is left stands where both were
        second = [2 + (first == [2])] if second == [2] else []
    alike = args[0].dtype == given[0].dtype
    return given[0] if alike and sorted(first + second) == [2, 3] else None
