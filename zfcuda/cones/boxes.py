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

from collections.abc import Sequence

import numpy as np

from zfcuda.cones import copying
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
    Pair,
    PixelCopy,
    Pixelwise,
    Pointwise,
    Rule,
)

__all__ = [
    "Boxes",
    "backward_boxes",
    "clip",
    "descend_boxes",
    "forward_boxes",
    "is_empty",
    "join_boxes",
    "propagate_boxes",
]

Boxes = np.ndarray  # int64 [P,4]: y0, x0, y1, x1, half open

_WINDOWED = (Conv, MaxPool, AvgPool)
_STILL = (
    Affine,
    Pointwise,
    Pixelwise,
    Lrn,
    Concat,
    Binary,
    Identity,
)  # boxes stay where they are


def is_empty(boxes: Boxes) -> np.ndarray:
    """bool [P]."""
    return (boxes[:, 0] >= boxes[:, 2]) | (boxes[:, 1] >= boxes[:, 3])


def clip(boxes: Boxes, size: Sequence[int]) -> Boxes:
    """What of ``boxes`` lies on a map of that (height, width)."""
    limit = np.array([*size, *size], np.int64)
    inside = np.clip(np.asarray(boxes, np.int64).reshape(-1, 4), 0, limit)
    inside[is_empty(inside)] = 0
    return inside


def join_boxes(*boxes: Boxes) -> Boxes:
    """The smallest boxes around all that are given for each of the P; empty ones do not count."""
    joined = boxes[0].copy()
    for other in boxes[1:]:
        none, new = is_empty(joined), ~is_empty(other)
        joined[none] = other[none]
        both = ~none & new
        joined[both, :2] = np.minimum(joined[both, :2], other[both, :2])
        joined[both, 2:] = np.maximum(joined[both, 2:], other[both, 2:])
    joined[is_empty(joined)] = 0
    return joined


def forward_boxes(
    rule: Rule, boxes: Sequence[Boxes], in_sizes: Sequence[Sequence[int]], out_size: Sequence[int]
) -> Boxes:
    """What can change in a rule's value when these boxes change in its inputs.

    Args:
        boxes: [P,4] for each input.
        in_sizes: (height, width) of each input's maps.
        out_size: of the value's.

    Raises:
        TypeError: a rule without a cone (opaque, shapes).
    """
    joined = join_boxes(*(clip(box, size) for box, size in zip(boxes, in_sizes, strict=True)))
    if isinstance(rule, _STILL):
        return joined
    if isinstance(rule, PixelCopy):
        return _boxes(*copying.reached(rule, joined), is_empty(joined))
    axes = (
        _reached(*joined[:, axis::2].T, out_size[axis], window)
        for axis, window in enumerate(_windows(rule))
    )
    return _boxes(*axes, is_empty(joined))


def backward_boxes(
    rule: Rule, boxes: Boxes, in_size: Sequence[int], out_size: Sequence[int]
) -> Boxes:
    """What these boxes of a rule's value depend on, in each of its inputs (whose maps are of one
    size).

    Raises:
        TypeError: a rule without a cone (opaque, shapes).
    """
    boxes = clip(boxes, out_size)
    if isinstance(rule, _STILL):
        return boxes
    if isinstance(rule, PixelCopy):
        return _boxes(*copying.needed(rule, boxes), is_empty(boxes))
    axes = (
        _needed(*boxes[:, axis::2].T, in_size[axis], window)
        for axis, window in enumerate(_windows(rule))
    )
    return _boxes(*axes, is_empty(boxes))


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
    local = isinstance(node.rule, (*_WINDOWED, *_STILL, PixelCopy))
    return local and node.is_map and all(graph.nodes[i].is_map for i in node.inputs)


# --- one axis -------------------------------------------------------------------------------------


_Window = tuple[int, int, int, int]  # kernel, stride, padding, dilation
_Interval = tuple[np.ndarray, np.ndarray]  # [P] each, half open


def _windows(rule: Rule) -> list[_Window]:
    """The rule's window on each axis."""
    if not isinstance(rule, _WINDOWED):
        raise TypeError(f"{type(rule).__name__} has no cone: anything may depend on anything")
    dilation: Pair = getattr(rule, "dilation", (1, 1))
    return list(zip(rule.kernel, rule.stride, rule.padding, dilation, strict=True))


def _reached(start: np.ndarray, stop: np.ndarray, size: int, window: _Window) -> _Interval:
    """The windows that have a tap in [start, stop): from the first to the last."""
    kernel, stride, pad, dilation = window
    # One tap of the window at o is at o * stride - pad + tap * dilation.
    shift = pad - np.arange(kernel)[:, None] * dilation
    first = np.maximum(-((-start - shift) // stride), 0)
    last = np.minimum((stop - 1 + shift) // stride, size - 1)
    return _hull(first, last, first <= last)


def _needed(start: np.ndarray, stop: np.ndarray, size: int, window: _Window) -> _Interval:
    """The taps on the map of the windows in [start, stop): from the first to the last."""
    kernel, stride, pad, dilation = window
    shift = pad - np.arange(kernel)[:, None] * dilation
    first = np.maximum(-((-shift) // stride), start)
    last = np.minimum((size - 1 + shift) // stride, stop - 1)
    return _hull(first * stride - shift, last * stride - shift, first <= last)


def _hull(first: np.ndarray, last: np.ndarray, real: np.ndarray) -> _Interval:
    """From the first to behind the last over the rows [taps,P] of closed intervals; those that are
    not real do not count."""
    far = np.iinfo(np.int64).max
    start = np.where(real, first, far).min(0)
    stop = np.where(real, last + 1, 0).max(0)
    return start, stop


def _boxes(rows: _Interval, columns: _Interval, empty: np.ndarray) -> Boxes:
    boxes = np.stack([rows[0], columns[0], rows[1], columns[1]], 1).astype(np.int64)
    boxes[empty | is_empty(boxes)] = 0
    return boxes
