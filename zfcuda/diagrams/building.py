"""Reading a layer off the model's graph."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from zfcuda.deconvnet.pictures import projections
from zfcuda.diagrams.naming import module_name, naming
from zfcuda.diagrams.switching import switch_example
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.pixelwise import fan_in
from zfcuda.graph.rules import Identity, Input, MaxPool, Shape
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import check_input
from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import Layer, find_layers
from zfcuda.results.diagram import Diagram, Source, Step, SwitchExample

__all__ = ["diagram_of"]

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
    x = check_input(model, x)
    if len(x) != 1:
        raise ValueError(f"x must hold one image [1,C,H,W], got shape {list(x.shape)}")
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
    )


# --- which calls are the layer --------------------------------------------------------------------


def _calls(graph: Graph, top: Node, module: nn.Module, name: str) -> list[int]:
    """The indices of the layer's calls, ascending."""
    below = sorted(graph.ancestors([top.index]))
    passages = _passages(graph, below)
    inside = (
        [i for i in below if _is_inside(graph.nodes[i], name)] if any(module.children()) else []
    )
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


def _is_inside(node: Node, name: str) -> bool:
    return node.call.op == "call_module" and str(node.call.target).startswith(f"{name}.")


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
        what = naming(node)
        steps.append(
            Step(
                name=module_name(node),
                kind=what.kind,
                detail=what.detail,
                back=what.back,
                back_detail=what.back_detail,
                inputs=tuple(inputs),
                shape=node.shape or (),
            )
        )
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
