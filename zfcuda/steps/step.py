"""One pass over memory, and all of a graph's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zfcuda.graph.convolving import Convolution
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Lrn,
    MaxPool,
    Pixelwise,
    Pointwise,
    Rule,
)

# What cones understand.
LOCAL = (Conv, MaxPool, AvgPool, Affine, Pointwise, Pixelwise, Lrn, Concat, Binary)


@dataclass(frozen=True, eq=False)
class Step:
    """One pass.

    Attributes:
        value: the graph node whose value it makes (the last of those it covers).
        node: the node it begins with.
        rule: that node's rule; a convolution may have a batch norm folded into it, a pool the ReLU
            before it (whose step then leaves it out).
        inputs: the nodes whose values it takes.
        then: what is applied to the result; a ReLU right after a convolution is part of
            ``convolution`` instead.
        shape: of its value, per image.
        convolution: the rule as a function, if it is a convolution.
        owned: for each input, whether this step alone takes it and may overwrite it.
    """

    value: int
    node: Node
    rule: Rule
    inputs: tuple[int, ...]
    then: tuple[Pointwise | Affine, ...]
    shape: tuple[int, ...] | None
    convolution: Convolution | None = None
    owned: tuple[bool, ...] = ()

    @property
    def local(self) -> bool:
        """Whether a change in a rectangle of its input changes a rectangle of its value."""
        return isinstance(self.rule, LOCAL) and self.shape is not None and len(self.shape) == 3


@dataclass(frozen=True, eq=False)
class Steps:
    """All of a graph's steps in order; ``source`` tells, for every node, whose value it shares."""

    graph: Graph
    steps: tuple[Step, ...]
    source: Mapping[int, int]

    @property
    def output(self) -> int:
        return self.source[self.graph.output]
