"""How signals go down, and through which nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Input,
    Lrn,
    MaxPool,
    Pixelwise,
    Pointwise,
)

# The calls that count as ReLU, and what their arguments must be for it.
_RECTIFIERS: dict[str, dict[str, float]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {},
    "prelu": {},
    "rrelu": {},
    "clamp": {"min": 0},
    "hardtanh": {"min_val": 0},
    "threshold": {"threshold": 0, "value": 0},
}
_UNDERSTOOD = (Input, Conv, MaxPool, AvgPool, Affine, Pointwise, Pixelwise, Lrn, Concat, Identity)
_SUMS = ("add", "sub")
_CUTS = ("detach", torch.detach)  # what the model's author wants no signal to pass


@dataclass(frozen=True)
class Manner:
    """How signals go down; the arguments of :func:`zfcuda.deconv` of these names."""

    overlap: str = "sum"
    rule: str = "deconv"
    norm: str = "identity"

    def rectifies(self, rule: Any) -> bool:
        """Whether a pointwise rule rectifies the signal, instead of handing its gradient down."""
        if self.rule != "deconv" or not isinstance(rule, Pointwise):
            return False
        wanted = _RECTIFIERS.get(rule.name)
        given = getattr(rule.function, "keywords", {})
        return wanted is not None and all(given.get(k) == v for k, v in wanted.items())

    def uses_forward_values(self, rule: Any) -> bool:
        """Whether a rule hands its gradient at the forward point down."""
        if isinstance(rule, MaxPool):
            return rule.relu and self.rule == "gradient"
        if isinstance(rule, Lrn):
            return self.rule == "gradient" or self.norm == "gradient"
        return isinstance(rule, Pointwise | Pixelwise) and not self.rectifies(rule)


def obstacle(graph: Graph, tops: Collection[int]) -> Node | None:
    """The last node that these nodes depend on and that no cone goes through, if there is one."""
    for index in sorted(graph.ancestors(tops), reverse=True):
        node = graph.nodes[index]
        understood = isinstance(node.rule, _UNDERSTOOD) or (
            isinstance(node.rule, Binary) and node.rule.name in _SUMS
        )
        cut = node.call.target in _CUTS
        if not understood or cut or not node.is_map:
            return node
    return None
