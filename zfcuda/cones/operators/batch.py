"""A batch of units on the way down, beside what the forward pass has left for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from zfcuda.cones.operators.behaviours import backward_boxes, looks_back
from zfcuda.cones.operators.signals import Ints, Points, Windows, at, gather, table
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.recognition import rectifies
from zfcuda.graph.rules import Pointwise, Rule
from zfcuda.ops.windows import on_host

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


@dataclass(frozen=True)
class Manner:
    """How signals go down; the arguments of :func:`zfcuda.deconv` of these names."""

    overlap: str = "sum"
    rule: str = "deconv"
    norm: str = "identity"

    def rectifies(self, rule: Rule) -> bool:
        """Whether a pointwise rule rectifies the signal, instead of handing its gradient down."""
        if self.rule != "deconv" or not isinstance(rule, Pointwise):
            return False
        if isinstance(rule.function, Chain):
            return rectifies(rule.function)
        wanted = _RECTIFIERS.get(rule.name)
        given = getattr(rule.function, "keywords", {})
        return wanted is not None and all(given.get(k) == v for k, v in wanted.items())

    def uses_forward_values(self, rule: Rule) -> bool:
        """Whether a rule hands its gradient at the forward point down."""
        return looks_back(rule, self)


@dataclass(frozen=True, eq=False)
class Observed:
    """What a forward pass of n images leaves for the way down.

    Attributes:
        outputs: the maps [n,C,h,w] of the nodes that units are in.
        switches: of every max-pooling, as pixels [n,OH,OW,C].
        inputs: the maps that nodes took whose gradient at the forward point is wanted, and the
            fixed ones that nodes multiply others with.
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


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of units.

    Attributes:
        observed: the forward pass.
        images: [P], which of its images each unit is of.
        taps: by max-pooling the tap [P] that each unit's window took, where it is known already.
    """

    observed: Observed
    images: Ints
    taps: Mapping[int, Ints] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return self.observed.graph

    @property
    def manner(self) -> Manner:
        return self.observed.manner

    def shape_below(self, node: Node) -> tuple[int, ...]:
        """(C,H,W) of what a node takes."""
        return self.graph.nodes[node.inputs[0]].shape

    def boxes_below(self, node: Node, boxes: Ints) -> Ints:
        """What these boxes of a node's maps depend on in what it takes."""
        return backward_boxes(node.rule, boxes, self.shape_below(node)[1:], node.shape[1:])

    def at_points(self, pixels: Tensor, points: Points) -> Tensor:
        """Elements [q] of the forward pass where the points are."""
        return at(pixels, self.images[points.units], *points.places.T, points.channels)

    def taps_at(self, node: Node, switches: Tensor, points: Points) -> Ints:
        """What the ``switches`` [n,OH,OW,C] of a pooling say where the points are. Of those that
        are not known a GPU is waited for."""
        if node.index in self.taps:
            return self.taps[node.index][points.units]
        return on_host([self.at_points(switches, points)])[0].numpy()

    def under_windows(self, pixels: Tensor, signal: Windows) -> Tensor:
        """Pixels [q,h,w,C] of the forward pass where windows, which lie on the map, are."""
        count, height, width = signal.data.shape[:3]
        out = pixels.new_empty(count, height, width, pixels.shape[3])
        images = self.images[signal.units]
        gather(pixels, None, table(images, None, signal.origins, height, width, out.device), out)
        return out
