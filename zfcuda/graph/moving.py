"""Calls that move numbers, and chains of such calls: padding, cropping, strides, flipping, rolling,
nearest resampling, pixel shuffles, space to depth however it is spelled.

None of these calls looks at a value: where each number goes is settled by the shapes. What a chain
from one map to another moves is therefore what it does to maps whose rows, columns, channels and
images are numbered, all of their elements.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda.graph.guards import SMALL
from zfcuda.graph.nodes import Node, Sized, Value, values_in
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.rules import Fixed, Moved, Opaque, Rearrangement, Shape

_MOVE = frozenset((
    "alias", "cat", "channel_shuffle", "chunk", "constant_pad_nd", "copy", "expand", "fill", "flip",
    "from_map", "im2col", "index", "index_select", "native_channel_shuffle", "permute",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad2d", "repeat", "replication_pad2d", "roll",
    "select", "select_scatter", "slice", "slice_scatter", "split", "split_with_sizes", "squeeze",
    "stack", "t", "to_map", "transpose", "unbind", "unfold", "unsqueeze", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "view", "zero",
))  # fmt: skip
# Calls that look at nothing but sizes. What lies in new memory is nobody's business: zeros here.
_NEW = frozenset(("empty", "empty_like", "new_empty", "new_empty_strided"))
_MADE = _NEW | {
    "full", "full_like", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "zeros",
    "zeros_like",
}  # fmt: skip
_LONGEST = 128  # calls
_PARTS = 1024  # that maps may have to be told apart in


@dataclass(frozen=True, eq=False)
class Moving:
    """Calls from one map to another, as a function of the first: a node's instead of theirs."""

    source: Value
    calls: tuple[Node, ...]

    def __call__(self, x: Tensor) -> Tensor:
        values: dict[int, Any] = {self.source.index: x}
        for call in self.calls:
            values[call.index] = _made(call, values, len(x))
            for index in self._done.get(call.index, ()):
                del values[index]
        return values[self.calls[-1].index]

    @cached_property
    def _done(self) -> dict[int, list[int]]:
        """By call, the values that none after it takes."""
        last = {self.source.index: self.calls[0].index}
        for call in self.calls:
            last |= dict.fromkeys((call.index, *_taken(call)), call.index)
        done: dict[int, list[int]] = {}
        for value, call in last.items():
            if value != self.calls[-1].index:
                done.setdefault(call, []).append(value)
        return done


def _holds_large_constants(call: Node) -> bool:
    """Whether it takes tensors that may have changed where they are when a graph is found again
    (:mod:`zfcuda.graph.recall`): a rule would still say what they held."""
    found = [t for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    return any(t.numel() > SMALL for t in found)


def _taken(call: Node) -> list[int]:
    """The values whose numbers a call takes."""
    if call.target in _MADE:
        return []
    return [value.index for value in values_in((call.args, call.kwargs))]


def _made(call: Node, values: Mapping[int, Any], images: int) -> Any:
    if call.target not in _MADE:
        return call.evaluate(values)
    alike = {v.index: _of_sizes(v, images) for v in values_in((call.args, call.kwargs))}
    found = call.evaluate(alike)
    return found.zero_() if call.target in _NEW else found


def _of_sizes(value: Value, images: int) -> Tensor:
    """A tensor like a value, for as many images; of hardly any memory."""
    sizes = [size.of(images) if isinstance(size, Sized) else size for size in value.sizes]
    return torch.zeros((), dtype=value.dtype, device=value.device).expand(sizes)


def moves(node: Node) -> bool:
    """Whether a call without a rule of its own moves numbers only."""
    return isinstance(node.rule, Opaque | Shape | Fixed) and node.target in _MOVE | _MADE


def chains_followed(
    nodes: Sequence[Node], tops: Collection[int], layers: Collection[int], local: Collection[int]
) -> list[Node]:
    """The nodes of a graph, where chains of calls that move numbers end with such a rule.

    A chain ends with maps that something else takes, or a layer returns.

    Args:
        tops: what is wanted of the graph.
        layers: the nodes whose values layers return.
        local: the nodes before any barrier; chains to others are of no use.
    """
    found = list(nodes)
    takers: dict[int, list[int]] = {top: [-1] for top in tops}
    inside: set[int] = set()  # of chains that go on to other maps
    ends: set[int] = set()
    for node in reversed(nodes):
        if node.index not in takers:
            continue
        if moves(node):
            last = node.index in tops or node.index in layers
            if not last and (ends | inside).issuperset(takers[node.index]):
                inside.add(node.index)
            elif node.is_map:
                ends.add(node.index)
        for value in values_in((node.args, node.kwargs)):
            takers.setdefault(value.index, []).append(node.index)
    tried: set[int] = set()
    for index in sorted(ends.intersection(local)):
        _follow(found, index, tried)
    return found


def _follow(nodes: list[Node], index: int, tried: set[int]) -> None:
    """Write what the chain to a node does into it; else, into the last ones below of which that is
    known."""
    if index in tried or isinstance(nodes[index].rule, Fixed):
        return
    tried.add(index)
    node = nodes[index]
    chain = _chain_to(nodes, node)
    rule = None if chain is None else _rule_of(chain, node)
    if chain is not None and rule is not None:
        args, inputs = (chain.source,), (chain.source.index,)
        nodes[index] = replace(node, rule=rule, function=chain, args=args, kwargs={}, inputs=inputs)
        return
    waiting = values_in((node.args, node.kwargs))
    while waiting:
        below = nodes[waiting.pop().index]
        if moves(below) and below.is_map:
            _follow(nodes, below.index, tried)
        elif moves(below):
            waiting.extend(values_in((below.args, below.kwargs)))


def _chain_to(nodes: Sequence[Node], last: Node) -> Moving | None:
    """The calls that lead to a node from the one map that they all come from, if there is one."""
    sources: dict[int, Value] = {}
    members: dict[int, Node] = {}
    waiting = [last]
    while waiting or len(sources) > 1:
        # Of several maps, the later ones may come from the first.
        call = waiting.pop() if waiting else nodes[sources.pop(max(sources)).index]
        if call.index in members:
            continue
        if isinstance(call.function, Moving | Chain) and all(map(moves, call.function.calls)):
            members |= {inner.index: inner for inner in call.function.calls}
            sources[call.function.source.index] = call.function.source
            continue
        if not moves(call) or _holds_large_constants(call) or len(members) == _LONGEST:
            return None
        members[call.index] = call
        if call.target in _MADE:
            continue
        for value in values_in((call.args, call.kwargs)):
            if not value.dtype.is_floating_point:  # where numbers go may depend on values
                return None
            if value.is_map and not moves(nodes[value.index]):
                sources[value.index] = value
            else:
                waiting.append(nodes[value.index])
    if len(sources) != 1 or len({call.custom for call in members.values()}) > 1:
        return None
    (source,) = sources.values()
    calls = tuple(members[index] for index in sorted(members))
    if any(v.dtype != source.dtype for call in calls for v in values_in((call.args, call.kwargs))):
        return None  # numbers may be rounded
    return Moving(source, calls)


# --- what a chain moves ---------------------------------------------------------------------------


def _rule_of(chain: Moving, last: Node) -> Rearrangement | None:
    """The rule of a chain; None where rows depend on columns, or pixels on other images'."""
    count, height, width = chain.source.shape
    alike = last.shape[0] == count and all(map(_treats_channels_alike, chain.calls))
    if alike:  # one tells of all
        source = replace(chain.source, shape=(1, height, width))
        found = _elements_moved(replace(chain, source=source), (1, *last.shape[1:]))
    else:
        found = _elements_moved(chain, last.shape)
    if found is None:
        return None
    index, fill = found
    filled = index < 0
    lines = index.div(width, rounding_mode="floor")
    channels = lines.div(height, rounding_mode="floor")
    rows = (lines - channels * height).masked_fill_(filled, -1)
    columns = (index - lines * width).masked_fill_(filled, -1)
    places = _apart(rows, columns, filled)
    if places is None:
        return None
    if alike:
        rows, columns = (each[0].cpu().numpy().astype(np.int64) for each in places)
        every = np.arange(count)
        one = Moved(every, rows, columns, 0 * rows, 0 * columns, every[None, None])
        return Rearrangement(last.spelled, chain, (one,), fill)
    parts = _parts(*(each.cpu().numpy().astype(np.int64) for each in (channels, *places)))
    return None if parts is None else Rearrangement(last.spelled, chain, parts, fill)


_PLANES = (
    "alias", "reflection_pad2d", "replication_pad2d", "upsample_nearest2d",
    "_upsample_nearest_exact2d",
)  # fmt: skip


def _treats_channels_alike(call: Node) -> bool:
    """Whether a call moves rows and columns of maps only, the same of every channel."""
    if not call.is_map or not all(v.is_map for v in values_in((call.args, call.kwargs))):
        return False
    match call.target, call.args[1:]:
        case "constant_pad_nd", (pad, *_):
            return len(pad) <= 4
        case "slice", (dim, *_):
            return dim % 4 in (2, 3)
        case "flip", (dims,):
            return {d % 4 for d in dims} <= {2, 3}
        case "roll", (_, dims):
            return bool(dims) and {d % 4 for d in dims} <= {2, 3}
    return call.target in _PLANES


def _elements_moved(chain: Moving, shape: Sequence[int]) -> tuple[Tensor, float] | None:
    """Which of an image's elements [C,h,w], counted through, each element of a chain's result
    [C',h',w'] is; -1 where it is the number that comes second. None where there are several such
    numbers, or images are not moved by themselves.

    The elements of two images are numbered in the maps' own type, for kernels round in it: digit by
    digit. What does not change its sign with them is none of theirs.
    """
    x = chain.source
    size = math.prod(x.shape)
    if not size or not math.prod(shape):
        return None
    kind = torch.int32 if 2 * size < 2**31 else torch.int64
    numbers = torch.arange(2 * size, dtype=kind, device=x.device).view(2, *x.shape)
    base = 2 ** min(30, round(-math.log2(torch.finfo(x.dtype).eps)))
    given = (numbers % base + 1).to(x.dtype)
    made = chain(given)
    if made.dtype != x.dtype or made.shape != (2, *shape) or not made.numel():
        return None
    filled = made == chain(-given)  # views of other memory
    fills = made[filled].unique()
    if len(fills) > 1:
        return None
    index, factor = made.to(kind).sub_(1), base
    while factor < 2 * size:
        digit = (numbers // factor % base + 1).to(x.dtype)
        index += chain(digit).to(kind).sub_(1).mul_(factor)
        factor *= base
    first, second = index.masked_fill_(filled, -1)
    alone = (filled[0] == filled[1]) & (filled[0] | (second == first + size))
    within = filled[0] | ((first >= 0) & (first < size))
    if not alone.all() or not within.all():
        return None
    return first, float(fills.sum())


def _apart(rows: Tensor, columns: Tensor, filled: Tensor) -> tuple[Tensor, Tensor] | None:
    """Of elements [C',H',W'], which row each row [C',H'] comes from and which column each column
    [C',W']; None where one depends on the other."""
    of_rows, of_columns = rows.amax(2), columns.amax(1)
    none = (of_rows < 0)[:, :, None] | (of_columns < 0)[:, None, :]
    told = ((rows == of_rows[:, :, None]) & (columns == of_columns[:, None, :])) | none
    return (of_rows, of_columns) if told.all() and torch.equal(none, filled) else None


def _parts(channels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[Moved, ...] | None:
    """Maps by which rows and columns they are made of; None where there are too many kinds."""
    places = np.concatenate([rows, columns], 1)
    _, first, kind = np.unique(places, axis=0, return_index=True, return_inverse=True)
    if len(first) > _PARTS:
        return None
    parts = []
    for number, at in enumerate(first):
        members = np.flatnonzero(kind.reshape(-1) == number)
        part = _part(members, channels[members], rows[at], columns[at])
        if part is None:
            return None
        parts.append(part)
    return tuple(parts)


def _part(
    members: np.ndarray, channels: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> Moved | None:
    inside = (rows >= 0).all() and (columns >= 0).all()
    real = channels if inside else channels[:, rows >= 0][:, :, columns >= 0]
    if not real.size:  # nothing but filling
        return Moved(members, rows, columns, 0 * rows, 0 * columns, 0 * members[None, None])
    by_row, row_phases = _phases(rows, real.transpose(1, 0, 2))
    by_column, column_phases = _phases(columns, real.transpose(2, 0, 1))
    if len(by_row) * len(by_column) > _PARTS:
        return None
    sources = real[:, by_row][:, :, by_column].transpose(1, 2, 0)
    told = sources[row_phases[rows >= 0]][:, column_phases[columns >= 0]]
    if not np.array_equal(told.transpose(2, 0, 1), real):
        return None
    return Moved(members, rows, columns, row_phases, column_phases, sources)


def _phases(places: np.ndarray, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first line of every kind, and which kind each place is of."""
    phases = np.zeros(len(places), np.int64)
    if (lines == lines[:1]).all():
        return np.zeros(1, np.int64), phases
    flat = np.ascontiguousarray(lines.reshape(len(lines), -1))
    _, first, kind = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    phases[places >= 0] = kind.reshape(-1)
    return first, phases
