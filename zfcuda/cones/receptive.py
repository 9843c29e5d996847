"""What part of the image a unit of each layer can see: receptive field, stride, first centre.

Computed from the model's graph by the arithmetic of Araujo, Norris, Sim, "Computing Receptive
Fields of Convolutional Neural Networks" (Distill 2019), as bounds: where branches meet, the bounds
of the sum or concatenation enclose those of the branches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from zfcuda.cones.operators.behaviours import field
from zfcuda.cones.operators.rectangles import ReceptiveField
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Fixed, Input, Opaque, Rearrangement, Shape
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import plain
from zfcuda.inference.layers import Layers, find_layers

__all__ = ["ReceptiveField", "receptive_fields"]


def receptive_fields(
    model: nn.Module, x: Tensor, layers: Layers
) -> dict[str, ReceptiveField | str]:
    """What the units of `layers` see of images like `x`; a sentence where that is not a rectangle.

    Args:
        model: in eval mode; left as it was.
        x: [n,C,H,W].
        layers: names of modules, or the modules.

    Returns:
        by layer its field, or why it has none: the model cannot be traced, the layer depends on
        the whole image, or branches of different strides meet before it.
    """
    layers = [*find_layers(model, layers)]
    try:
        graph = trace(model, plain(x), layers)
    except Untraceable as error:
        return dict.fromkeys(layers, f"the model cannot be traced: {error}")
    fields: list[ReceptiveField | str] = []
    for node in graph.nodes:
        fields.append(_field(graph, node, fields))
    nodes = {name: graph.layer(name) for name in layers}
    return {
        name: "the output does not depend on it" if node is None else fields[node.index]
        for name, node in nodes.items()
    }


def _field(graph: Graph, node: Node, below: Sequence[ReceptiveField | str]) -> ReceptiveField | str:
    """What a node's units see, from what those of its inputs see."""
    if isinstance(node.rule, Input):
        return ReceptiveField((1, 1), (1, 1), (0, 0))
    inputs = [below[i] for i in node.inputs if not isinstance(graph.nodes[i].rule, Shape | Fixed)]
    if isinstance(node.rule, Fixed):
        return "does not depend on the image"
    for reason in inputs:
        if isinstance(reason, str):
            return reason
    if isinstance(node.rule, Opaque | Shape) or not node.is_map or not inputs:
        return f"sees the whole image, from '{_name(graph, node)}' on"
    if any(one.stride != inputs[0].stride for one in inputs):
        return f"fields of different strides meet in '{_name(graph, node)}'"
    found = field(node.rule, _enclosing(inputs))
    if found is None and isinstance(node.rule, Rearrangement):
        return f"pixels are copied out of their order in '{_name(graph, node)}'"
    return found or f"units' fields are not evenly spaced in '{_name(graph, node)}'"


def _enclosing(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    start = tuple(min(f.start[axis] for f in fields) for axis in (0, 1))
    stop = (max(f.start[axis] + f.size[axis] for f in fields) for axis in (0, 1))
    size = tuple(b - a for a, b in zip(start, stop, strict=True))
    return dataclasses.replace(fields[0], size=size, start=start)


def _name(graph: Graph, node: Node) -> str:
    """What the user calls a node: its module, or the first module behind it, or the call itself."""
    return node.layers[0] if node.layers else node.name
