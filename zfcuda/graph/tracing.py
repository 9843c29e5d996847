"""From a model to its graph, checked."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.graph import recall
from zfcuda.graph.guards import CallFailed, Untraceable, refuse, unchanged, uncompiled
from zfcuda.graph.interpreter import Interpreter
from zfcuda.graph.nodes import Graph
from zfcuda.graph.symbolic import End, Tracer, follow
from zfcuda.inference.passes import layer_outputs


def trace(model: nn.Module, x: Tensor, layers: Collection[str] = ()) -> Graph:
    """The model's graph for images like ``x``.

    The graph runs once on the first one or two images, and so does the model: both must agree. A
    model that was traced before, and makes the same calls of the same modules, need not run again.

    Args:
        model: in eval mode.
        x: [n,C,H,W].
        layers: names of modules; what is run, and the graph, then end when the last of them has
            returned, and its output is the graph's. Empty, or with one that is never called: the
            whole model.

    Raises:
        Untraceable: the graph would not answer as the model does, or not for every image alike:
            control flow that depends on values, hooks, random numbers, statistics of the batch,
            several inputs or outputs, compiled or quantised parts.
    """
    refuse(model)
    with unchanged(model), uncompiled(model), torch.inference_mode(False), torch.no_grad():
        tracer = follow(model)
        end = tracer.end(layers)
        images = x[:2].detach()
        mark = _mark(tracer, end, images)
        graph = recall.find(model, mark)
        if graph is None:
            try:
                graph, value = Interpreter(tracer).run(images.clone(), end)
            except CallFailed:
                _answer(model, images.clone(), end)  # an image that it cannot take is its own error
                raise
            _compare(value, _answer(model, images.clone(), end))
            recall.keep(model, mark, graph)
        return graph


def _mark(tracer: Tracer, end: End, images: Tensor) -> recall.Mark | None:
    if any(_makes_its_weights(module) for module in tracer.modules.values()):
        return None
    returned = tuple(
        (done.count, done.names) for done in tracer.returned if done.count <= end.count
    )
    kind = (tuple(images.shape), images.stride(), images.dtype, images.device)
    cast = torch.is_autocast_enabled(images.device.type)  # values then have other dtypes
    cast = torch.get_autocast_dtype(images.device.type) if cast else None
    return recall.mark(tracer.graph, tracer.modules, end.count, end.layers, returned, *kind, cast)


def _makes_its_weights(module: nn.Module) -> bool:
    """Whether weights are computed when they are read (parametrisations): a graph that holds them
    holds what they were."""
    read = (getattr(module, name, None) for name in ("weight", "bias"))
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(isinstance(w, Tensor) and not any(w is mine for mine in own) for w in read)


def _answer(model: nn.Module, images: Tensor, end: End) -> Any:
    """The model's own output, or its layer's, where the graph ends."""
    if end.module is None:
        return model(images)
    calls: list[Any] = []
    with layer_outputs(
        model, end.module, lambda _, output: calls.append(output), stop=end.times, required=False
    ):
        model(images)
    if len(calls) >= end.times:
        return calls[-1]
    raise Untraceable("it does not call its modules as torch.fx sees it")


def _compare(value: Tensor, answer: Any) -> None:
    if not isinstance(answer, Tensor) or answer.shape != value.shape:
        got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise Untraceable(f"its trace returns {list(value.shape)}, it returns {got}")
    if torch.equal(value, answer):  # as a rule, and checked much faster
        return
    # The same calls in the same order: what differs is what a parallel sum may differ by.
    tolerance = 32 * torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
    scale = float(answer.nan_to_num(0, 0, 0).abs().max()) if answer.numel() else 0.0
    if not torch.allclose(value, answer, tolerance, tolerance * scale, equal_nan=True):
        raise Untraceable("its trace answers otherwise than the model itself")
