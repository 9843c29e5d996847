"""A guard: NaN shows whether a call reaches further than its rule says.

What cones leave out is proven by rules (:mod:`zfcuda.cones.operators`), each tested against brute
force. Should one be wrong nevertheless, or be read out of a call that does something else, this
tells it on the user's own image before a wrong number is made. It can miss a fault, in a call that
swallows NaN for one: it proves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from zfcuda.cones.operators.behaviours import forward_boxes, has_cone
from zfcuda.cones.operators.rectangles import Boxes
from zfcuda.graph.nodes import Graph, Node, as_recorded, filled, values_in
from zfcuda.graph.rules import AvgPool, Conv, Fixed, Input, MaxPool, Shape, TransposedConv

aten = torch.ops.aten

Inside = tuple[Any, ...]  # an index of a rectangle of maps [n,C,h,w]

_known: WeakKeyDictionary[Graph, str] = WeakKeyDictionary()


def leak(graph: Graph, image: Tensor) -> str:
    """The name of the first call that changes more than its rule says; empty if none does.

    Every call that cones go through runs once, on what it is given in a pass of ``image``, but for
    a NaN in the pixel in the middle: its value must have NaN in no pixel that its rule does not
    name. Each is tried with a pixel of its own, so that the last is seen as clearly as the first.

    Args:
        graph: of images like ``image``; what was found is remembered as long as it lives.
        image: [1,C,H,W].
    """
    if graph not in _known:
        with torch.inference_mode(False), torch.no_grad(), as_recorded(image.device):
            found = _first(graph, image)
        _known[graph] = "" if found is None else next(filter(None, found.layers), found.name)
    return _known[graph]


def _first(graph: Graph, image: Tensor) -> Node | None:
    given = {n.index: [v.index for v in values_in((n.args, n.kwargs))] for n in graph.nodes}
    values: dict[int, Any] = {}
    for node in graph.nodes:
        if isinstance(node.rule, Input):
            values[0] = _poisoned(image.detach().clone().nan_to_num_(nan=0.0))
        elif all(index in values for index in given[node.index]):
            if isinstance(node.rule, Shape | Fixed):  # whatever the pixel is
                values[node.index] = graph.evaluate(node, values)
            elif (inside := _reach(graph, node)) is not None:
                value = _healed(node, _called(node, values), inside)
                if _has_nan(value):
                    if _is_changed(node, values, inside):
                        return node
                    value.nan_to_num_(nan=0.0)
                values[node.index] = _poisoned(value)
        for index in graph.released.get(node.index, ()):
            values.pop(index, None)
    return None


def _called(node: Node, values: Mapping[int, Any]) -> Tensor:
    """The node's value, by kernels that look at each window by itself."""
    if node.function is not aten.convolution.default or values[node.inputs[0]].device.type == "cpu":
        return node.evaluate(values)
    args, _ = filled((node.args, node.kwargs), lambda a: values[a.index])
    # Some of cuDNN's transform whole tiles, all over which a NaN is then.
    return aten._convolution.default(*args, False, False, False, False)


def _has_nan(value: Tensor) -> bool:
    """A sum is made much faster than a look at every number."""
    return bool(torch.isnan(value.sum())) and bool(torch.isnan(value).any())


# --- one pixel ------------------------------------------------------------------------------------


def _middle(size: tuple[int, ...]) -> Boxes:
    """The box [1,4] of the pixel in the middle of maps of this (height, width)."""
    y, x = (length // 2 for length in size)
    return np.array([[y, x, y + 1, x + 1]], np.int64)


def _reach(graph: Graph, node: Node) -> Inside | None:
    """What the pixels in the middle of the maps that a node takes can change; None where no cone
    goes through it."""
    taken = [graph.nodes[i] for i in node.inputs]
    if not has_cone(node.rule) or not all(n.is_map for n in (node, *taken)):
        return None
    sizes = [*dict.fromkeys(n.shape[1:] for n in taken)]
    boxes = [_middle(size) for size in sizes]
    y0, x0, y1, x1 = forward_boxes(node.rule, boxes, sizes, node.shape[1:])[0].tolist()
    return (..., slice(y0, y1), slice(x0, x1))


def _poisoned(value: Tensor) -> Tensor:
    """With NaN in the middle, in place."""
    if value.is_floating_point():
        y, x = (length // 2 for length in value.shape[2:])
        value[:, :, y, x] = torch.nan
    return value


def _healed(node: Node, value: Tensor, inside: Inside) -> Tensor:
    """With zeros there, in memory of its own: a call may return a part of what it was given, or of
    the model's own tensors, or one place for several numbers, as where maps are expanded."""
    if not isinstance(node.rule, _FRESH):
        value = value.clone(memory_format=torch.contiguous_format)
    value[inside] = 0
    return value


_FRESH = (Conv, TransposedConv, MaxPool, AvgPool)


# --- a second opinion -----------------------------------------------------------------------------


def _is_changed(node: Node, values: Mapping[int, Any], inside: Inside) -> bool:
    """Whether numbers in the place of the NaN change anything elsewhere.

    NaN alone does not say so: the image itself may lead to it, fast convolutions spread it over
    tiles, and zero times NaN is NaN, as where interpolation gives a pixel the weight zero.
    """
    below, none, above = (_with(node, values, sign) for sign in (-1, 0, 1))
    change = torch.stack([above - none, below - none]).nan_to_num_(0, 0, 0).abs_()
    rounding = 1e-9 * float(change.max()) if none.dtype == torch.float64 else 0.0
    change[inside] = 0
    return float(change.max()) > rounding


def _with(node: Node, values: Mapping[int, Any], sign: int) -> Tensor:
    """The node's value with zero or a large number of that sign in the place of NaN, in float64
    unless the call is for its own dtype only."""
    given = {index: _finite(values[index], sign) for index in node.inputs}
    args, kwargs = tree_map_only(Tensor, _wide, (node.args, node.kwargs))
    try:
        wide = {index: _wide(value) for index, value in given.items()}
        return replace(node, args=args, kwargs=kwargs).evaluate({**values, **wide})
    except Exception:
        return node.evaluate({**values, **given})


def _finite(value: Tensor, sign: int) -> Tensor:
    return value.nan_to_num(nan=sign * (1 + float(value.nan_to_num(0, 0, 0).abs().max())))


def _wide(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value
