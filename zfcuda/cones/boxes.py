"""Rectangle algebra: what a changed rectangle changes further up, and what one depends on below.

Convolution and pooling are local, so a rectangle that changes in the input changes, on every map, a
rectangle (the *forward cone*), and a rectangle of a map depends on a rectangle of the input (the
*backward cone*). Rectangles are int64 arrays [P,4] of (y0, x0, y1, x1), half open, in elements of
their map and clipped to it; an empty one is all zeros. Each function takes P of them at once.

Boxes are bounding boxes: exact for a single rule, padding, gaps and edges included, and never too
small for a whole graph. They can be too large where cones part and meet again, since the union of
two rectangles is not one.
"""

from __future__ import annotations

from zfcuda.cones.operators.behaviours import backward_boxes, forward_boxes, has_cone
from zfcuda.cones.operators.rectangles import Boxes, clip, join_boxes
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.rules import Input


def propagate_boxes(graph: Graph, boxes: Boxes) -> list[Boxes | None]:
    """By node, what can change when these boxes [P,4] of the input do (they may hang over its
    edge); None where everything may, at a barrier or past it."""
    found: list[Boxes | None] = []
    for node in graph.nodes:
        given = [found[i] for i in node.inputs]
        if isinstance(node.rule, Input):
            found.append(clip(boxes, node.shape[1:]))
        elif _has_cone(graph, node) and all(box is not None for box in given):
            sizes = [graph.nodes[i].shape[1:] for i in node.inputs]
            found.append(forward_boxes(node.rule, given, sizes, node.shape[1:]))
        else:
            found.append(None)
    return found


def descend_boxes(graph: Graph, node: Node, boxes: Boxes) -> dict[int, Boxes | None]:
    """What these boxes [P,4] of a node's maps depend on, by the index of the node itself and of all
    nodes behind it; None where that may be everything, past a barrier."""
    found: dict[int, Boxes | None] = {
        node.index: clip(boxes, node.shape[1:]) if node.is_map else None
    }
    for index in range(node.index, -1, -1):
        if index not in found:
            continue
        above, wanted = graph.nodes[index], found[index]
        for taken in dict.fromkeys(above.inputs):
            below = graph.nodes[taken]
            if wanted is None or not _has_cone(graph, above):
                found[taken] = None
            elif taken not in found or found[taken] is not None:
                needed = backward_boxes(above.rule, wanted, below.shape[1:], above.shape[1:])
                found[taken] = join_boxes(found[taken], needed) if taken in found else needed
    return found


def _has_cone(graph: Graph, node: Node) -> bool:
    return has_cone(node.rule) and node.is_map and all(graph.nodes[i].is_map for i in node.inputs)
