"""Several calls that together treat every pixel alone: from a map, over other layouts, to a map.

Channel shuffles go over five dimensions, channel normalisations and 1x1 convolutions written as
linear layers over channels-last views, a channel is picked out of the input. None of the calls has
a cone of its own, but together they are a function of each pixel, by the rules of
:mod:`zfcuda.graph.axes`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda.graph.axes import Axes, axes_of_maps, is_one_by_one, size_of
from zfcuda.graph.nodes import Node, Value, values_in
from zfcuda.graph.rules import Affine, Binary, Conv, Pixelwise, Pointwise

_BLOCK = 1024  # pixels


@dataclass(frozen=True, eq=False)
class Linear:
    """``F.linear`` with these weights, as a node's function."""

    axis = -1

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class LeftLinear:
    """``weight @ x``, over the next to last axis, as a node's function."""

    axis = -2

    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.matmul(self.weight, x)


@dataclass(frozen=True, eq=False)
class Chain:
    """The calls between two maps, as a function of the first: a node's, in the place of theirs.

    Attributes:
        axes: by call, of its result.
    """

    source: Value
    calls: tuple[Node, ...]
    axes: Mapping[int, Axes] = field(default_factory=dict)

    @property
    def rule(self) -> Pointwise | Pixelwise:
        name = self.calls[-1].spelled
        alone = all(map(self._is_one_by_one, self.calls))
        return Pointwise(name, self) if alone else Pixelwise(name, self)

    def _is_one_by_one(self, call: Node) -> bool:
        given = values_in((call.args, call.kwargs))
        return (
            call.shape == self.source.shape
            and all(value.shape == self.source.shape for value in given)
            and (is_one_by_one(call) or isinstance(call.rule, Affine | Binary | Pointwise))
        )

    @property
    def replaces_its_end(self) -> bool:
        """Whether the chain serves better than its last call, which has a rule of its own: products
        and the like have no transpose, and a module of torch's is one function."""
        last = self.calls[-1]
        one = last.module is not None and all(call.module == last.module for call in self.calls)
        return one or last.rule.name not in ("add", "sub")

    @property
    def only_moves(self) -> bool:
        """Whether every number that it makes is one that it takes, whatever the numbers are."""
        return all(call.target in _MOVE and not _joins_constants(call) for call in self.calls)

    @property
    def holds_tensors(self) -> bool:
        """Whether its calls take tensors besides what depends on the images."""
        return any(
            isinstance(a, Tensor) for c in self.calls for a in tree_leaves((c.args, c.kwargs))
        )

    @property
    def differentiable(self) -> bool:
        """Whether it has a derivative, which may be zero: not where all that it takes of its map
        are integers and truth values."""
        dtypes = {
            value.index: value.dtype
            for call in self.calls
            for value in values_in((call.args, call.kwargs))
        }
        reached = {self.source.index}
        for call in self.calls:
            floats = dtypes.get(call.index, self.source.dtype).is_floating_point
            taken = {value.index for value in values_in((call.args, call.kwargs))}
            if floats and taken & reached:
                reached.add(call.index)
        return self.calls[-1].index in reached

    def __call__(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        if x.device.type != "cpu" or n * h * w <= _BLOCK or x.requires_grad or not last:
            return self.at_once(x)
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, -1)
        out = None
        for begin in range(0, len(pixels), _BLOCK):
            some = slice(begin, begin + _BLOCK)
            y = self.at_once(pixels[some].T[None, :, None])[0, :, 0].T
            if out is None:
                out = y.new_empty(len(pixels), y.shape[1])
            out[some] = y
        return out.view(n, h, w, -1).permute(0, 3, 1, 2)

    def at_once(self, x: Tensor) -> Tensor:
        """The same, never block by block."""
        values: dict[int, Any] = {self.source.index: x}
        sizes = {"n": x.shape[0], "h": x.shape[2], "w": x.shape[3]}
        whole = x.device.type == "cpu" and tuple(x.shape[2:]) == (1, _BLOCK)
        for call in self.calls:
            if call.index in self._fused and whole:
                values[call.index] = values[call.args[0].index]
            elif whole and isinstance(call.function, Linear):  # of this one size only: see linear
                of, (input,) = call.function, call.args
                gelu = call.index in self._followed
                values[call.index] = linear(values[input.index], of.weight, of.bias, gelu=gelu)
            else:
                values[call.index] = self.evaluate(call, values, sizes)
        return values[self.calls[-1].index]

    def evaluate(self, call: Node, values: Mapping[int, Any], sizes: dict[str, int]) -> Any:
        """A call's value on maps of other sizes."""
        if call.target in ("to_map", "from_map"):
            return call.function(values[call.args[0].index], sizes)
        if call.target in ("view", "expand"):
            (given, *_) = call.args
            shape = [size_of(axis, sizes) for axis in self.axes[call.index]]
            x = values[given.index]
            return x.reshape(shape) if call.target == "view" else x.expand(shape)
        if call.target == "heaviside":  # torch knows no derivative, not even zero
            with torch.no_grad():
                return call.evaluate(values)
        return call.evaluate(values)

    @cached_property
    def _fused(self) -> dict[int, int]:
        """By GELU, the linear layer before it that oneDNN does it with: nothing but a view lies
        between them, and nobody else looks."""
        taken = Counter(
            value.index for call in self.calls for value in values_in((call.args, call.kwargs))
        )
        by_index = {call.index: call for call in self.calls}
        found: dict[int, int] = {}
        for call in self.calls:
            if not _is_gelu(call):
                continue
            below = by_index.get(call.inputs[0])
            while below is not None and taken[below.index] == 1 and below.target == "view":
                below = by_index.get(below.inputs[0])
            alone = below is not None and taken[below.index] == 1
            if alone and isinstance(below.function, Linear):
                found[call.index] = below.index
        return found

    @cached_property
    def _followed(self) -> frozenset[int]:
        return frozenset(self._fused.values())


_MOVE = frozenset((
    "alias", "cat", "channel_shuffle", "chunk", "clone", "expand", "flip", "from_map", "index",
    "index_select", "native_channel_shuffle", "permute", "roll", "select", "slice", "split",
    "split_with_sizes", "squeeze", "stack", "t", "to_map", "transpose", "unbind", "unsqueeze",
    "view",
))  # fmt: skip


def _joins_constants(call: Node) -> bool:
    given = call.args[0] if isinstance(call.args[0], list | tuple) else ()
    return any(isinstance(one, Tensor) for one in given)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """``F.linear``, followed by ``F.gelu`` if ``gelu``. oneDNN's matrix product, where there is
    one, is a tenth to a fifth faster here than the BLAS that torch calls, and a GELU comes with it.

    It compiles, and keeps, code for every number of rows: only for few different ones.
    """
    if not _with_onednn(weight) or x.dtype != weight.dtype or 0 in x.shape or x.requires_grad:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if gelu else out
    bias = None if bias is None else bias.contiguous()  # taken for that, whatever its strides
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, "gelu" if gelu else "none", [], "none" if gelu else ""
    )


def _with_onednn(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and weight.requires_grad)
    )


def _is_gelu(call: Node) -> bool:
    return call.target == "gelu" and call.kwargs.get("approximate", "none") == "none"


def fan_in(node: Node) -> int:
    """Multiply-adds behind each number of the node's value; 0 for what has no weights."""
    if isinstance(node.rule, Conv):
        return node.rule.weight[0].numel()
    if isinstance(node.function, Chain):
        parts = [call for call in node.function.calls if call.shape is not None]
        return sum(fan_in(call) * math.prod(call.shape) for call in parts) // math.prod(node.shape)
    if isinstance(node.function, Linear | LeftLinear):
        return node.function.weight.shape[1]
    return 0


_LONGEST = 64  # calls


def chain_to(
    nodes: Sequence[Node], last: Node, axes: Mapping[int, Axes], derived: Collection[int]
) -> Chain | None:
    """The chain that ends with the node ``last``, if there is one that treats pixels alone: the
    calls between it and the one map that they all come from.

    Args:
        axes: by node, as far as known.
        derived: the nodes whose axes follow from those of what they take.
    """
    channels = last.shape[0] if last.is_map else 0
    if not channels or axes.get(last.index) != axes_of_maps(channels):
        return None
    sources: dict[int, Value] = {}
    members: dict[int, Node] = {}
    waiting = [last]
    while waiting or len(sources) > 1:
        # Of several maps, the later ones may come from the first.
        call = waiting.pop() if waiting else nodes[sources.pop(max(sources)).index]
        if call.index in members:
            continue
        if isinstance(call.function, Chain):
            members |= {inner.index: inner for inner in call.function.calls}
            sources[call.function.source.index] = call.function.source
            continue
        if not _may_be_part(call, derived) or len(members) == _LONGEST:
            return None
        members[call.index] = call
        for value in values_in((call.args, call.kwargs)):
            if value.is_map and axes.get(value.index) == axes_of_maps(value.shape[0]):
                sources[value.index] = value
            else:
                waiting.append(nodes[value.index])
    if len(sources) != 1 or len({call.custom for call in members.values()}) > 1:
        return None
    (source,) = sources.values()
    if source.shape[1:] != last.shape[1:]:
        return None
    return Chain(source, tuple(members[index] for index in sorted(members)), axes)


def _may_be_part(call: Node, derived: Collection[int]) -> bool:
    # A chain would hide where signals end.
    return call.index in derived and call.target != "detach"
