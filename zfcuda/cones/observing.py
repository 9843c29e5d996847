"""The forward pass, and what it leaves for the way down."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from zfcuda import ops
from zfcuda.cones.operators.batch import Manner, Observed
from zfcuda.cones.operators.behaviours import below
from zfcuda.cones.operators.joining import SUMS, weights_of
from zfcuda.graph.nodes import Graph, Node, last_takers, released
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.recognition import looks_at_signs, rectifies
from zfcuda.graph.rules import Binary, Fixed, GlobalPool, Input, MaxPool, Pixelwise, Pointwise
from zfcuda.inference.deconvnet_rules import calls_left_to_gradient, claim
from zfcuda.ops.windows import pixels

_CUTS = ("detach",)  # what the model's author wants no signal to pass


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


def _is_linear(graph: Graph, node: Node) -> bool:
    """Whether a rule of a kind that may be is linear in the maps that depend on the images."""
    rule = node.rule
    if isinstance(rule, GlobalPool):
        return rule.reduce in ("mean", "sum")
    if isinstance(rule, Binary):
        return rule.name in SUMS or weights_of(graph, node) is not None
    return True


def _sends_nothing(node: Node) -> bool:
    """Whether a chain takes from its map only what has no derivative, such as places of maxima."""
    return isinstance(node.function, Chain) and not node.function.differentiable


def obstacle(graph: Graph, tops: Collection[int]) -> Node | None:
    """The last node that these nodes depend on and that no cone goes through, if there is one."""
    for index in sorted(graph.ancestors(tops), reverse=True):
        node = graph.nodes[index]
        known = below.knows(node.rule) and _is_linear(graph, node)
        understood = isinstance(node.rule, Input) or known
        cut = node.target in _CUTS and not isinstance(node.rule, Fixed)
        cut = cut or bool(node.custom) or _hides_rectifier(node) or _sends_nothing(node)
        if not understood or cut or not node.is_map:
            return node
    return None


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
    weights = weights_of(observed.graph, node)
    if weights is not None:
        observed.inputs[node.index] = values[weights]
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
