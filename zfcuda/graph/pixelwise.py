"""Several calls that together treat every pixel alone: from a map, over other layouts, to a map.

Channel shuffles go over five dimensions, channel normalisations and 1x1 convolutions written as
linear layers over channels-last views, a channel is picked out of the input. None of the calls has
a cone of its own, but together they are a function of each pixel, which is tried out: on random
maps it must give what it gives on the same pixels one by one, and in a row.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.graph.nodes import (
    Affine,
    Binary,
    Conv,
    Identity,
    Node,
    Opaque,
    Pixelwise,
    Pointwise,
    Shape,
    Value,
    values_in,
)

_BLOCK = 1024  # pixels


@dataclass(frozen=True, eq=False)
class Chain:
    """The calls between two maps, as a function of the first: a node's, in the place of theirs."""

    source: Value
    calls: tuple[Node, ...]

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
        whole = x.device.type == "cpu" and tuple(x.shape[2:]) == (1, _BLOCK)
        for first, last in self._passes:
            if whole and _is_linear(first):  # of this one size only: see linear
                of, (input,) = first.function, first.args
                values[last.index] = linear(
                    values[input.index], of.weight, of.bias, gelu=last is not first
                )
                continue
            values[first.index] = first.evaluate(values)
            if last is not first:
                values[last.index] = last.evaluate(values)
        return values[self.calls[-1].index]

    @cached_property
    def _passes(self) -> list[tuple[Node, Node]]:
        """The calls, each linear layer together with the GELU that alone takes it: the first and
        the last of each."""
        taken = Counter(
            value.index for call in self.calls for value in values_in((call.args, call.kwargs))
        )
        passes: list[tuple[Node, Node]] = []
        for call in self.calls:
            before = passes[-1][0] if passes else None
            follows = before is not None and call.inputs == (before.index,)
            if follows and taken[before.index] == 1 and _is_linear(before) and _is_gelu(call):
                passes[-1] = (before, call)
            else:
                passes.append((call, call))
        return passes


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


def _is_linear(call: Node) -> bool:
    module = call.function
    plain = type(module) is nn.Linear and "forward" not in vars(module)
    of_pixels = len(call.args) == 1 and isinstance(call.args[0], Value)  # not of a parameter
    return plain and of_pixels and not call.kwargs


def _is_gelu(call: Node) -> bool:
    function = getattr(call.rule, "function", None)
    given = getattr(function, "keywords", {})
    exact = given.get("approximate", "none") == "none"
    return getattr(function, "func", function) is F.gelu and exact


def fan_in(node: Node) -> int:
    """Multiply-adds behind each number of the node's value; 0 for what has no weights."""
    if isinstance(node.rule, Conv):
        return node.rule.weight[0].numel()
    if isinstance(node.function, Chain):
        parts = [call for call in node.function.calls if call.shape is not None]
        return sum(fan_in(call) * math.prod(call.shape) for call in parts) // math.prod(node.shape)
    weight = getattr(node.function, "weight", None)
    if weight is None:
        weight = next((a for a in node.args if isinstance(a, Tensor) and a.dim() == 2), None)
    of_all = isinstance(node.rule, Opaque) and isinstance(weight, Tensor) and weight.dim() == 2
    return weight.shape[1] if of_all else 0


_LONGEST = 24  # calls

# Those that may be part of a chain: they move, scale, weigh or sum numbers, wherever those are.
_CALLS = (
    "permute transpose swapaxes swapdims movedim moveaxis view reshape flatten unflatten "
    "contiguous chunk split tensor_split unbind getitem unsqueeze squeeze stack cat concat expand "
    "flip layer_norm rms_norm linear matmul softmax log_softmax mean sum var std norm normalize "
    "add sub mul div truediv iadd isub imul itruediv channel_shuffle"
)
_MODULES = (nn.LayerNorm, nn.Linear, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.ChannelShuffle)
_RULES = (Affine, Binary, Identity, Pixelwise, Pointwise, Shape)


def chain_to(nodes: Sequence[Node], last: Node) -> Chain | None:
    """The chain that ends with the node ``last``, if there is one that treats pixels alone."""
    chain = _closed(nodes, last) if last.is_map and last.shape[0] else None
    return chain if chain and _treats_pixels_alone(chain, last.shape[0]) else None


def _closed(nodes: Sequence[Node], last: Node) -> Chain | None:
    """The calls between ``last`` and the one map of its size that they all come from."""
    sources: dict[int, Value] = {}
    members: dict[int, Node] = {}
    waiting = [last]
    while waiting or len(sources) > 1:
        # Of several maps, the later ones may come from the first.
        call = waiting.pop() if waiting else nodes[sources.pop(max(sources)).index]
        if call.index in members:
            continue
        if not _may_be_part(call) or len(members) == _LONGEST:
            return None
        members[call.index] = call
        for value in values_in((call.args, call.kwargs)):
            if value.is_map and value.shape[1:] == last.shape[1:]:
                sources[value.index] = value
            else:
                waiting.append(nodes[value.index])
    if len(sources) != 1:
        return None
    (source,) = sources.values()
    return Chain(source, tuple(members[index] for index in sorted(members)))


def _may_be_part(call: Node) -> bool:
    if call.call.target in ("detach", torch.detach):  # a chain would hide where signals end
        return False
    if isinstance(call.rule, _RULES):
        return True
    if not isinstance(call.rule, Opaque):
        return False
    if isinstance(call.function, nn.Module):
        return type(call.function) in _MODULES and "forward" not in vars(call.function)
    name = _name(call)
    if name == "getitem" and not _picks_channels(call.args[1]):
        return False
    # Attention between random pixels may see each of them alone: none is like another.
    if name in ("matmul", "linear") and len(values_in((call.args, call.kwargs))) > 1:
        return False
    return name in _CALLS.split()


def _name(call: Node) -> str:
    """Of the function or method."""
    target = call.call.target
    return target if isinstance(target, str) else getattr(target, "__name__", "")


def _cut_places(index: Any) -> list[int]:
    """In which places an index has a slice that leaves something out."""
    places = index if isinstance(index, tuple) else (index,)
    return [i for i, p in enumerate(places) if isinstance(p, slice) and p != slice(None)]


def _picks_channels(index: Any) -> bool:
    """Whether an index leaves rows and columns whole, in [n,C,h,w] or behind ``...`` [n,h,w,C]."""
    if all(i == 1 for i in _cut_places(index)):
        return True
    return isinstance(index, tuple) and index[0] is ...


def _treats_pixels_alone(chain: Chain, channels: int) -> bool:
    source = chain.source
    # A cut at a fixed place need not show on smaller maps than the real ones.
    n, h, w = (2, *source.shape[1:]) if any(map(_cuts, chain.calls)) else (2, 3, 4)
    generator = torch.Generator().manual_seed(0)  # the global one is watched
    drawn = torch.randn(n, source.shape[0], h, w, generator=generator, dtype=torch.float64)
    x = drawn.to(source.device, source.dtype)
    try:  # not by blocks, which are rows of pixels themselves
        together = chain.at_once(x)
        pixels = x.permute(0, 2, 3, 1).reshape(n * h * w, -1, 1, 1)
        alone = chain.at_once(pixels)
        in_a_row = chain.at_once(pixels.permute(2, 1, 3, 0))
    except Exception:  # sizes are written into a call
        return False
    found = (together, alone, in_a_row)
    if not all(isinstance(y, Tensor) and y.dtype == x.dtype for y in found):
        return False
    sizes = (n, channels, h, w), (n * h * w, channels, 1, 1), (1, channels, 1, n * h * w)
    if tuple(y.shape for y in found) != sizes:
        return False
    first, *others = (y.permute(0, 2, 3, 1).reshape(-1, channels).double() for y in found)
    tolerance = torch.finfo(source.dtype).eps ** 0.75
    scale = tolerance * float(first.abs().max())
    if not math.isfinite(scale):  # which hides what pixels have to do with each other
        return False
    return all(torch.allclose(first, other, tolerance, scale) for other in others)


def _cuts(call: Node) -> bool:
    """Whether it may cut rows or columns at a fixed place."""
    if isinstance(call.function, Chain):
        return any(map(_cuts, call.function.calls))
    if _name(call) == "getitem":
        return bool(_cut_places(call.args[1]))
    return _name(call) == "tensor_split"
