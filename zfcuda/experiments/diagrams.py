"""A convnet layer with its attached deconvnet layer (Zeiler & Fergus 2014, figure 1), as data.

:func:`diagram_of` reads the layer off the model's own graph, :func:`naming` says what each call
does on the way up and on the way down, :func:`switch_example` takes a real example of pooling and
unpooling.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.cones.operators.batch import Manner
from zfcuda.cones.operators.behaviours import Naming, words
from zfcuda.cones.operators.each_pixel import BATCH_NORM
from zfcuda.cones.operators.rectangles import product_of
from zfcuda.experiments.deconvnet.projecting import projections
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph, Node, as_recorded
from zfcuda.graph.pixelwise import fan_in
from zfcuda.graph.rules import Identity, Input, MaxPool, Pair, Pointwise, Shape
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import check_input, evaluating, to_result
from zfcuda.inference.layers import Layer, find_layers
from zfcuda.results.diagram import Diagram, Source, Step, SwitchExample

_MANNER = Manner()
_RECTIFIERS = {
    "relu": "ReLU",
    "relu6": "ReLU6",
    "leakyrelu": "leaky ReLU",
    "prelu": "PReLU",
    "rrelu": "RReLU",
}
_SPOKEN = {**_RECTIFIERS, "gelu": "GELU", "silu": "SiLU"}
_WRITTEN = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "div", "truediv": "div"}
# Calls without a rule of their own, by the name of their function or class.
_SHAPED = "flatten view reshape unflatten squeeze unsqueeze permute transpose contiguous"
_AVERAGED = "adaptive_avg_pool2d adaptiveavgpool2d avg_pool2d mean"


def module_name(node: Node) -> str:
    """The module that is called; where none is, the call."""
    if node.module is not None:
        return node.module
    return node.layers[0] if node.layers else _function_name(node)


def naming(node: Node) -> Naming:
    """What this call does."""
    if isinstance(node.rule, Pointwise) and _MANNER.rectifies(node.rule):
        spoken = _spoken(node.rule.name)
        return Naming("rectification", spoken, "rectification", "of the signal")
    return words(node.rule, node) or _by_function(node)


def _by_function(node: Node) -> Naming:
    name = _function_name(node)
    if "batch_norm" in node.target:
        return BATCH_NORM
    if _bare(name) in _RECTIFIERS:  # of vectors
        return Naming("rectification", _spoken(name), "rectification", "of the signal")
    if name.lower() == "linear":
        return Naming("linear", _fully(node), "transposed linear", "the same weights, no bias")
    if name.lower() in _SHAPED.split():
        return Naming("reshape", name, "reshape", "back")
    if name.lower() in _AVERAGED.split():
        return Naming("average pooling", "over the whole map", "spreading", "evenly")
    return _by_gradient(_SPOKEN.get(_bare(getattr(node.rule, "name", "")), name))


def _bare(name: str) -> str:
    return name.lower().replace("_", "")


def _spoken(name: str) -> str:
    return _SPOKEN.get(_bare(name), name)


def _by_gradient(name: str) -> Naming:
    return Naming(name, "", f"gradient of {name}", "at the forward point")


def _fully(node: Node) -> str:
    weight = getattr(node.function, "weight", None)
    return "fully connected" if weight is None else f"{product_of(weight.shape)} weights"


def _function_name(node: Node) -> str:
    return node.author.partition(" ")[0] if node.module is not None else node.spelled


_BLOCK = 2  # windows a side
_LARGEST = 4  # of windows that are shown two by two; of larger ones, one


def switch_example(name: str, rule: MaxPool, maps: Tensor) -> SwitchExample:
    """The windows around the strongest unit of what a layer pools of ``maps`` [1,C,H,W]."""
    pooled, switches = ops.max_pool2d(
        maps, rule.kernel, rule.stride, rule.padding, rule.dilation, rule.ceil_mode, rule.relu
    )
    # NaN counts as the smallest.
    strongest = pooled[0].nan_to_num(-torch.inf).argmax()
    channel, *unit = (int(place) for place in torch.unravel_index(strongest, pooled[0].shape))
    first, count = _block(rule, maps[0, channel], switches[0, channel], tuple(unit))
    rows = slice(first[0], first[0] + count[0])
    columns = slice(first[1], first[1] + count[1])
    alone = torch.zeros_like(pooled)
    alone[0, channel, rows, columns] = pooled[0, channel, rows, columns]
    unpooled = ops.max_unpool2d(
        alone, switches, rule.kernel, rule.stride, rule.padding, rule.dilation, maps.shape[2:]
    )
    box = _reach(rule, first, count)
    return SwitchExample(
        name=name,
        channel=channel,
        kernel=rule.kernel,
        stride=rule.stride,
        values=to_result(_crop(maps[0, channel], box)),
        origin=box[:2],
        pooled=to_result(pooled[0, channel, rows, columns]).clone(),
        switches=switches[0, channel, rows, columns].to("cpu", torch.int64),
        first=first,
        unit=(unit[0] - first[0], unit[1] - first[1]),
        unpooled=to_result(_crop(unpooled[0, channel], box)),
        rectified=rule.relu,
    )


def _block(rule: MaxPool, plane: Tensor, switches: Tensor, unit: Pair) -> tuple[Pair, Pair]:
    """First window and number of windows of a block that holds the unit; where there is a choice,
    one that needs no padding and whose windows have maxima of their own."""
    side = _BLOCK if max(rule.kernel) <= _LARGEST else 1
    count = (min(side, switches.shape[0]), min(side, switches.shape[1]))
    starts = [
        [s for s in range(at, at - n, -1) if 0 <= s <= length - n]
        for at, n, length in zip(unit, count, switches.shape, strict=True)
    ]

    def cost(first: Pair) -> tuple[int, int]:
        y0, x0, y1, x1 = _reach(rule, first, count)
        over = (-y0, -x0, y1 - plane.shape[0], x1 - plane.shape[1])
        return sum(max(0, side) for side in over), -len(_maxima(rule, switches, first, count))

    return min(product(*starts), key=cost), count


def _maxima(rule: MaxPool, switches: Tensor, first: Pair, count: Pair) -> set[Pair]:
    """The places, in the map below, of these windows' maxima."""
    places = set()
    for row, column in product(*(range(first[i], first[i] + count[i]) for i in (0, 1))):
        tap = divmod(int(switches[row, column]), rule.kernel[1])
        y, x = (
            at * rule.stride[i] - rule.padding[i] + tap[i] * rule.dilation[i]
            for i, at in enumerate((row, column))
        )
        places.add((y, x))
    return places


def _reach(rule: MaxPool, first: Pair, count: Pair) -> tuple[int, int, int, int]:
    """(y0, x0, y1, x1), half open: where these windows lie in the map below."""
    start = [first[i] * rule.stride[i] - rule.padding[i] for i in (0, 1)]
    stop = [
        start[i] + (count[i] - 1) * rule.stride[i] + rule.dilation[i] * (rule.kernel[i] - 1) + 1
        for i in (0, 1)
    ]
    return start[0], start[1], stop[0], stop[1]


def _crop(plane: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """What is in the box, NaN outside the plane."""
    y0, x0, y1, x1 = box
    height, width = plane.shape
    return F.pad(plane, (-x0, x1 - width, -y0, y1 - height), value=torch.nan)


_DEPTH = 10  # calls, one after the other; of deeper layers the topmost are drawn


@torch.inference_mode(False)  # nothing made here is an inference tensor
def diagram_of(model: nn.Module, x: Tensor, layer: Layer, depth: int = _DEPTH) -> Diagram:
    """The convnet layer that ends with ``layer``, and the deconvnet layer attached to it.

    The layer is read off the model's own graph: downwards from the output of ``layer``, to the
    convolution (or linear layer) that it ends, with everything between two places through which
    all of the image passes, so that branches and shortcuts are whole; where ``layer`` is a module
    of several, such as a residual block, all of it. Calls that change nothing (dropout in eval
    mode) are left out.

    Args:
        model: can be followed as a graph; runs in eval mode and is left as it was.
        x: [1,C,H,W], one image, on the model's device and of its dtype: shapes, the projection
            and the example of switches are its own.
        layer: a name of ``model.named_modules()``, or the module.
        depth: how many calls, one after the other, to draw; of a deeper layer the topmost, and what
            they take counts as given.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, a layer that is not
            called, or a model that cannot be followed as a graph, with the reason.
    """
    start = time.perf_counter()
    x = check_input(model, x, one=True)
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    (name,) = find_layers(model, [layer])
    seen = projections(model, x, [name])
    with evaluating(model):
        try:
            graph = trace(model, x, [name])
        except Untraceable as error:
            raise ValueError(f"the model cannot be drawn: {error}") from error
        top = graph.layer(name)
        if top is None:
            raise ValueError(f"layer {name!r} has no place of its own in the model's graph")
        drawn = _topmost(graph, top, _calls(graph, top, model.get_submodule(name), name), depth)
        with as_recorded(x.device):
            switch = _switch(graph, top, drawn, x)
    steps, sources = _arrows(graph, top, drawn)
    return Diagram(
        model=type(model).__name__,
        layer=name,
        steps=steps,
        sources=sources,
        unit=tuple(seen.units[name][0].tolist()),
        activation=float(seen.activations[name][0]),
        image=seen.images[0].clone(),
        projection=seen.projections[name][0].clone(),
        switch=switch,
        seconds=time.perf_counter() - start,
        precision=seen.precision,
    )


# --- which calls are the layer --------------------------------------------------------------------


def _calls(graph: Graph, top: Node, module: nn.Module, name: str) -> list[int]:
    """The indices of the layer's calls, ascending."""
    below = sorted(graph.ancestors([top.index]))
    passages = _passages(graph, below)
    calls = [(i, graph.nodes[i].module or "") for i in below] if any(module.children()) else []
    inside = [i for i, called in calls if called.startswith(f"{name}.")]
    lowest = min(inside, default=None)
    for passage in reversed(passages[:-1]):
        if lowest is not None:
            whole = passage < lowest
        else:
            whole = any(fan_in(graph.nodes[i]) for i in below if i > passage)
        if whole:
            break
    else:
        passage = 0  # the image
    return [i for i in below if i > passage and _shows(graph.nodes[i], top)]


def _topmost(graph: Graph, top: Node, calls: Sequence[int], depth: int) -> list[int]:
    """Those from which no way to the top is longer than ``depth`` calls."""
    height = dict.fromkeys(calls, 1)
    for index in reversed(calls):
        for given in graph.nodes[index].inputs:
            origin = _origin(graph, given, top)
            if origin in height:
                height[origin] = max(height[origin], height[index] + 1)
    return [index for index in calls if height[index] <= depth]


def _passages(graph: Graph, below: Collection[int]) -> list[int]:
    """Those nodes that everything passes through: no arrow leads past them."""
    reach, passages = 0, []
    for index in below:
        if reach <= index:
            passages.append(index)
        reach = max([reach, *(c for c in graph.consumers[index] if c in below)])
    return passages


def _shows(node: Node, top: Node) -> bool:
    changes_nothing = isinstance(node.rule, Identity) and node is not top
    return not changes_nothing and not isinstance(node.rule, Input | Shape)


# --- arrows ---------------------------------------------------------------------------------------


def _arrows(
    graph: Graph, top: Node, drawn: list[int]
) -> tuple[tuple[Step, ...], tuple[Source, ...]]:
    place = {index: number for number, index in enumerate(drawn)}
    sources: dict[int, int] = {}
    steps = []
    for index in drawn:
        node = graph.nodes[index]
        inputs = []
        for given in node.inputs:
            origin = _origin(graph, given, top)
            if isinstance(graph.nodes[origin].rule, Shape):
                continue
            if origin not in place:
                sources.setdefault(origin, len(sources))
            inputs.append(place[origin] if origin in place else -1 - sources[origin])
        steps.append(Step(module_name(node), *naming(node), tuple(inputs), node.shape or ()))
    return tuple(steps), tuple(_source(graph, index) for index in sources)


def _origin(graph: Graph, index: int, top: Node) -> int:
    """The node whose value this is, past calls that change nothing."""
    node = graph.nodes[index]
    while isinstance(node.rule, Identity) and node is not top:
        node = graph.nodes[node.inputs[0]]
    return node.index


def _source(graph: Graph, index: int) -> Source:
    node = graph.nodes[index]
    if isinstance(node.rule, Input):
        return Source("image", node.shape or (), 0)
    calls = [i for i in graph.ancestors([index]) if _shows(graph.nodes[i], node)]
    return Source(module_name(node), node.shape or (), len(calls))


def _switch(graph: Graph, top: Node, drawn: Collection[int], x: Tensor) -> SwitchExample | None:
    """The topmost pooling of the layer, or where it has none, of what is below."""
    below = sorted(graph.ancestors([top.index]))
    pools = [i for i in below if isinstance(graph.nodes[i].rule, MaxPool)]
    own = [i for i in pools if i in drawn]
    if not pools:
        return None
    pool = graph.nodes[(own or pools)[-1]]
    values: dict[int, Tensor] = {}
    for index in sorted(graph.ancestors([pool.inputs[0]])):
        node = graph.nodes[index]
        values[index] = x if isinstance(node.rule, Input) else graph.evaluate(node, values)
    return switch_example(module_name(pool), pool.rule, values[pool.inputs[0]])
