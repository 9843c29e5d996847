"""A batch of units beside the forward pass: what the steps down are given."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from zfcuda.backward_cone.forward_pass import Observed
from zfcuda.backward_cone.manner import Manner
from zfcuda.backward_cone.signals import Ints, Points, Windows, at, gather, table
from zfcuda.cone import backward_boxes
from zfcuda.graph.nodes import Graph, Node


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch of units.

    Attributes:
        observed: the forward pass.
        images: [P], which of its images each unit is of.
    """

    observed: Observed
    images: Ints

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

    def under_windows(self, pixels: Tensor, signal: Windows) -> Tensor:
        """Pixels [q,h,w,C] of the forward pass where windows, which lie on the map, are."""
        count, height, width = signal.data.shape[:3]
        out = pixels.new_empty(count, height, width, pixels.shape[3])
        images = self.images[signal.units]
        gather(pixels, None, table(images, None, signal.origins, height, width, out.device), out)
        return out
