"""Calls between two maps that together treat every pixel alone, run as one function.

On a CPU block by block, so that what one call makes is still in the cache when the next one reads
it: in a ConvNeXt block that is four times the map.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.convolving import linear
from zfcuda.graph.nodes import Node, Value, values_in
from zfcuda.rules import Conv, Opaque

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
