"""From a graph to its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import torch

from zfcuda.graph.convolving import Convolution
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Affine, Binary, Concat, Conv, Identity, MaxPool, Pointwise
from zfcuda.steps.step import Step, Steps


def fuse(graph: Graph, wanted: Collection[int] = ()) -> Steps:
    """The graph's steps, such that the value of every ``wanted`` node is made by some step."""
    kept = {*wanted, graph.output}
    source: dict[int, int] = {}
    made: dict[int, Step] = {}  # by value
    for node in graph.nodes:
        if isinstance(node.rule, Identity):
            source[node.index] = source[node.inputs[0]]
            continue
        inputs = tuple(source[i] for i in node.inputs)
        step = Step(node.index, node, node.rule, inputs, (), node.shape)
        before = made.get(inputs[0]) if inputs else None
        if before is not None and _only_for(graph, node, kept):
            if isinstance(step.rule, MaxPool) and _ends_in_relu(before):
                made[before.value] = replace(before, then=before.then[:-1])
                step = replace(step, rule=replace(step.rule, relu=True))
            elif (joined := _joined(before, step)) is not None:
                del made[before.value]
                step = joined
        source[node.index] = step.value
        made[step.value] = step
    shared = {0, *(source[node] for node in kept)}
    taken = Counter(value for step in made.values() for value in step.inputs)
    return Steps(
        graph,
        tuple(
            replace(
                _ready(made[value]),
                owned=tuple(taken[i] == 1 and i not in shared for i in made[value].inputs),
            )
            for value in sorted(made)
        ),
        source,
    )


def _ready(step: Step) -> Step:
    """With its convolution prepared."""
    if not isinstance(step.rule, Conv):
        return step
    relu = bool(step.then) and getattr(step.then[0], "name", None) == "relu"
    then = step.then[1:] if relu else step.then
    return replace(step, then=then, convolution=Convolution(step.rule, relu))


def _ends_in_relu(step: Step) -> bool:
    return bool(step.then) and getattr(step.then[-1], "name", None) == "relu"


def _only_for(graph: Graph, node: Node, kept: Collection[int]) -> bool:
    """Whether the node's first input, through identities, has no other use."""
    index = node.inputs[0]
    user = node.index
    while True:
        if index in kept or graph.consumers[index] != (user,):
            return False
        if not isinstance(graph.nodes[index].rule, Identity):
            return True
        index, user = graph.nodes[index].inputs[0], index


def _joined(before: Step, step: Step) -> Step | None:
    """Both steps as one, if one pass can do them."""
    rule = step.rule
    if isinstance(rule, Affine) and isinstance(before.rule, Conv) and not before.then:
        folded = _folded(before.rule, rule)
        return replace(before, value=step.value, rule=folded, shape=step.shape)
    fresh = isinstance(before.rule, Conv | Binary | Affine | Concat)
    if isinstance(rule, Affine | Pointwise) and fresh:
        return replace(before, value=step.value, then=(*before.then, rule), shape=step.shape)
    return None


def _folded(conv: Conv, affine: Affine) -> Conv:
    """The convolution followed by ``affine``, as one convolution."""
    wide = torch.float64
    scale, shift = affine.scale.to(wide), affine.shift.to(wide)
    weight = conv.weight.to(wide) * scale.expand(len(conv.weight))[:, None, None, None]
    bias = shift if conv.bias is None else conv.bias.to(wide) * scale + shift
    dtype = conv.weight.dtype
    bias = bias.expand(len(conv.weight)).to(dtype)
    # In the layout that convolving.py wants, so that it makes no copy of this one.
    weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
    return replace(conv, weight=weight, bias=bias)
