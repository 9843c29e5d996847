"""What part of the image a unit of each layer can see: receptive field, stride, first centre.

Computed from the model's graph by the arithmetic of Araujo, Norris, Sim, "Computing Receptive
Fields of Convolutional Neural Networks" (Distill 2019), as bounds: where branches meet, the bounds
of the sum or concatenation enclose those of the branches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import (
    AvgPool,
    Conv,
    Graph,
    Input,
    MaxPool,
    Node,
    Opaque,
    PixelCopy,
    Shape,
)
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import plain
from zfcuda.inference.passes import Layers, find_layers

__all__ = ["ReceptiveField", "receptive_fields"]


@dataclass(frozen=True)
class ReceptiveField:
    """What the units of a layer see, in pixels of the input; pairs are (vertical, horizontal).

    The unit in row r and column c sees the pixels from `start + (r, c) * stride` on, `size` of
    them, as far as they lie on the image.

    Attributes:
        size: extent of what one unit sees, had the image no edge.
        stride: how far apart neighbouring units' fields are.
        start: first pixel of the first unit's field; negative where padding is seen.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    start: tuple[int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """The centre of the first unit's field; the first pixel's own centre is at 0.5."""
        return self.start[0] + self.size[0] / 2, self.start[1] + self.size[1] / 2

    def box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """What one unit sees: (y0, x0, y1, x1), half open, not clipped to the image."""
        y0 = self.start[0] + row * self.stride[0]
        x0 = self.start[1] + column * self.stride[1]
        return y0, x0, y0 + self.size[0], x0 + self.size[1]


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
    inputs = [below[i] for i in node.inputs if not isinstance(graph.nodes[i].rule, Shape)]
    for reason in inputs:
        if isinstance(reason, str):
            return reason
    if isinstance(node.rule, Opaque | Shape) or not node.is_map or not inputs:
        return f"sees the whole image, from '{_name(graph, node)}' on"
    if any(field.stride != inputs[0].stride for field in inputs):
        return f"fields of different strides meet in '{_name(graph, node)}'"
    field = _enclosing(inputs)
    rule = node.rule
    if isinstance(rule, PixelCopy):
        moved = _copied(field, rule)
        return moved or f"pixels are copied out of their order in '{_name(graph, node)}'"
    return _windowed(field, rule) if isinstance(rule, Conv | MaxPool | AvgPool) else field


def _enclosing(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    start = tuple(min(f.start[axis] for f in fields) for axis in (0, 1))
    stop = (max(f.start[axis] + f.size[axis] for f in fields) for axis in (0, 1))
    size = tuple(b - a for a, b in zip(start, stop, strict=True))
    return dataclasses.replace(fields[0], size=size, start=start)


def _copied(field: ReceptiveField, rule: PixelCopy) -> ReceptiveField | None:
    """Fields of copies of units with the fields `field`; None unless they are evenly spaced."""
    stride, start = [], []
    for axis, source in enumerate((rule.rows, rule.columns)):
        at = np.flatnonzero(source >= 0)
        if not len(at):
            return None
        step = int(source[at[1]] - source[at[0]]) if len(at) > 1 else 1
        first = int(source[at[0]] - at[0] * step)
        if step < 1 or (source[at] != first + at * step).any():
            return None
        stride.append(field.stride[axis] * step)
        start.append(field.start[axis] + first * field.stride[axis])
    return ReceptiveField(field.size, tuple(stride), tuple(start))


def _windowed(field: ReceptiveField, rule: Conv | MaxPool | AvgPool) -> ReceptiveField:
    """Fields of windows over units with the fields `field`."""
    dilation = getattr(rule, "dilation", (1, 1))
    axes = zip(
        field.size, field.stride, field.start, rule.kernel, rule.stride, rule.padding, dilation,
        strict=True,
    )  # fmt: skip
    one_by_one = [
        (size + (kernel - 1) * spread * step, step * stride, start - padding * step)
        for size, step, start, kernel, stride, padding, spread in axes
    ]
    return ReceptiveField(*zip(*one_by_one, strict=True))


def _name(graph: Graph, node: Node) -> str:
    """What the user calls a node: its module, or the first module behind it, or the call itself."""
    return node.layers[0] if node.layers else node.name
