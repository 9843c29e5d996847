"""The forward pass, and what it leaves for the way down."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda import ops
from zfcuda.cones.steps import last_takers, released
from zfcuda.graph.nodes import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Graph,
    Identity,
    Input,
    Lrn,
    MaxPool,
    Node,
    PixelCopy,
    Pixelwise,
    Pointwise,
)
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.recognition import looks_at_signs, rectifies
from zfcuda.inference.deconvnet_rules import calls_left_to_gradient, claim
from zfcuda.ops.windows import pixels

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
_UNDERSTOOD = (
    Input, Conv, MaxPool, AvgPool, Affine, Pointwise, Pixelwise, PixelCopy, Lrn, Concat, Identity,
)  # fmt: skip
_SUMS = ("add", "sub")
_CUTS = ("detach",)  # what the model's author wants no signal to pass


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
        if isinstance(rule.function, Chain):
            return rectifies(rule.function)
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


def _hides_rectifier(node: Node) -> bool:
    """Whether a chain has a rectifier in it, through which it would hand a gradient down."""
    chain = node.function
    if not isinstance(chain, Chain) or rectifies(chain):
        return False
    return any(call.target in _RECTIFYING for call in chain.calls)


_RECTIFYING = (
    "relu", "hardtanh", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "clamp", "clamp_min",
    "threshold",
)  # fmt: skip


def obstacle(graph: Graph, tops: Collection[int]) -> Node | None:
    """The last node that these nodes depend on and that no cone goes through, if there is one."""
    for index in sorted(graph.ancestors(tops), reverse=True):
        node = graph.nodes[index]
        understood = isinstance(node.rule, _UNDERSTOOD) or (
            isinstance(node.rule, Binary) and node.rule.name in _SUMS
        )
        cut = node.target in _CUTS or bool(node.custom) or _hides_rectifier(node)
        if not understood or cut or not node.is_map:
            return node
    return None


@dataclass(frozen=True, eq=False)
class Observed:
    """What a forward pass of n images leaves for the way down.

    Attributes:
        outputs: the maps [n,C,h,w] of the nodes that units are in.
        switches: of every max-pooling, as pixels [n,OH,OW,C].
        inputs: the maps that nodes took whose gradient at the forward point is wanted.
        left: names of the nonlinearities the deconvnet has no rule for.
    """

    graph: Graph
    manner: Manner
    outputs: dict[int, Tensor] = field(default_factory=dict)
    switches: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    _made: dict[int, Any] = field(default_factory=dict)

    def once(self, node: Node, make: Callable[[], Any]) -> Any:
        """What all batches of units want of a node, made for the first of them."""
        if node.index not in self._made:
            self._made[node.index] = make()
        return self._made[node.index]


def arranged(x: Tensor) -> Tensor:
    """Images in the order of memory in which convolutions are fastest; float64, which checks the
    results, as it is."""
    return x if x.dtype == torch.float64 else x.contiguous(memory_format=torch.channels_last)


def forward_bytes(graph: Graph, tops: Collection[int], itemsize: int) -> int:
    """At most what :func:`observe` holds of one image."""
    shapes = [graph.nodes[index].shape for index in graph.ancestors(tops)]
    return sum(math.prod(shape) for shape in shapes if shape is not None) * itemsize


def observe(graph: Graph, x: Tensor, tops: Collection[int], manner: Manner) -> Observed:
    """Run the graph on ``x`` up to the nodes ``tops``, and no further."""
    needed = [graph.nodes[index] for index in sorted(graph.ancestors(tops))]
    done = released(last_takers((node.index, node.inputs) for node in needed))
    observed = Observed(graph, manner)
    values: dict[int, Any] = {0: arranged(x)}
    for node in needed:
        index = node.index
        if index:
            values[index] = _evaluate(node, values, observed)
        if index in tops:
            observed.outputs[index] = values[index]
        for value in done.get(index, ()):
            del values[value]
    return observed


def _evaluate(node: Node, values: dict[int, Any], observed: Observed) -> Any:
    rule, manner = node.rule, observed.manner
    if manner.uses_forward_values(rule):
        observed.inputs[node.index] = values[node.inputs[0]]
        if manner.rule == "deconv" and isinstance(rule, Pointwise | Pixelwise):
            observed.left.extend(_left_to_gradient(node, values[node.inputs[0]]))
    if not isinstance(rule, MaxPool):
        return observed.graph.evaluate(node, values)
    window = (rule.kernel, rule.stride, rule.padding, rule.dilation, rule.ceil_mode, rule.relu)
    value, switches = ops.max_pool2d(values[node.inputs[0]], *window)
    observed.switches[node.index] = pixels(switches)
    return value


def _left_to_gradient(node: Node, maps: Tensor) -> list[str]:
    """The names of what in a call, or a chain of calls, is not linear in the signal."""
    with torch.enable_grad():
        source = maps[:1, :, :1, :1].detach().clone().requires_grad_()
        chain = node.rule.function
        if isinstance(node.rule, Pointwise):
            signs = isinstance(chain, Chain) and looks_at_signs(chain)
            unruled = signs or calls_left_to_gradient(chain(source.clone()), source)
            return [node.author] if unruled else []
        values: dict[int, Any] = {chain.source.index: source.clone()}
        before: list[Any] = []
        for call in chain.calls:
            values[call.index] = chain.evaluate(call, values, {"n": 1, "h": 1, "w": 1})
            made = [t.grad_fn for t in tree_leaves(values[call.index]) if isinstance(t, Tensor)]
            claim(made, before, call.author)
            before.extend(made)
        return calls_left_to_gradient(values[chain.calls[-1].index], source)
