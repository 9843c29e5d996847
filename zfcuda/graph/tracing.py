"""A model as a graph of calls whose geometry is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.graph.building import build
from zfcuda.graph.calls import Record, Stop, answers_of, stop_at
from zfcuda.graph.guards import Untraceable, refuse, unchanged
from zfcuda.graph.nodes import Graph, as_recorded
from zfcuda.graph.recall import recalled, remember
from zfcuda.graph.record import record
from zfcuda.inference.beside import rounds
from zfcuda.inference.checks import concatenated, uncompiled
from zfcuda.inference.interception import fast_forward
from zfcuda.storage.identity import precision

_one_at_a_time = threading.RLock()  # hooks of all modules tell a recording which of them run


def trace(model: nn.Module, x: Tensor, layers: Collection[str] = (), mixing: bool = False) -> Graph:
    """The model's graph for images like ``x``.

    The model's pass is recorded, of one image and of two; what the graph then answers must be what
    the model did. A model that was traced before is asked for its calls only, which takes no
    arithmetic (:mod:`zfcuda.graph.recall`).

    Args:
        model: in eval mode.
        x: [n,C,H,W].
        layers: names of modules; the graph then ends when the last of them has returned, and its
            output is the graph's. Empty, or with one that is never called: the whole model.
        mixing: follow a model that takes a statistic over its batch, too (:attr:`Graph.mixes`).

    Raises:
        Untraceable: the graph would not answer as the model does, or not for every image alike:
            control flow that depends on values, hooks, random numbers, statistics of the batch,
            several inputs or outputs, quantised parts.
    """
    with _one_at_a_time, torch.inference_mode(False), torch.no_grad():
        refuse(model)
        images = x[:1].detach().contiguous()  # its graph holds in any order of memory
        known = recalled(model, images, layers)
        if known is not None and (mixing or not known.mixes):
            return known
        first = _first(model, images, layers)
        try:
            graph = _graph(model, images, layers, first, mixing)
        except Untraceable:
            raise
        except Exception as error:
            raise Untraceable(_said(error)) from error
        remember(model, images, layers, first, graph)
        return graph


def _first(model: nn.Module, images: Tensor, layers: Collection[str]) -> Record:
    """
    Raises:
        Exception: the model's own; one that it raises only when it is followed is an Untraceable.
    """
    try:
        return _recorded(model, images, layers)
    except Untraceable:
        raise
    except Exception as error:
        with unchanged(model), uncompiled(model), fast_forward():
            model(images.clone())
        raise Untraceable(_said(error)) from error


def _said(error: Exception) -> str:
    said = str(error).strip().split("\n")[0]
    return f"{type(error).__name__} on following it" + (f": {said}" if said else "")


def _graph(
    model: nn.Module, images: Tensor, layers: Collection[str], first: Record, mixing: bool
) -> Graph:
    """The graph, held against the model's own answers."""
    stop = stop_at(first, layers)
    try:  # beside an image with another mean, scale and extremes
        two = concatenated([3 * images.flip(3) + 1, images])
        second = _recorded(model, two, layers, stop)
    except Untraceable:
        raise
    except Exception:  # perhaps not a picture for this model
        two = concatenated([images.flip(3), images])
        second = _recorded(model, two, layers, stop)
    try:
        graph = _built(first, second, layers, mixing)
    except Untraceable as error:  # calls may do otherwise with axes of size one
        said = str(error)
        try:
            three = _recorded(model, concatenated([two, images]), layers, stop)
            graph = _built(second, three, layers, mixing, images=2)
        except Exception:
            raise Untraceable(said) from None
    if not graph.mixes:
        other = concatenated([-2 * images.flip(2), images])
        _require_alone(first, second, layers, lambda: _recorded(model, other, layers, stop))
    answers = answers_of(second, layers)
    with as_recorded(images.device):
        own = _answers(graph, two, layers)
    for layer, value in own.items():
        _compare(value, answers[layer])
    return graph


def _built(first: Record, *others: Any, **named: Any) -> Graph:
    with as_recorded(first.values[0].device):
        return build(first, *others, **named)


def _require_alone(
    first: Record, second: Record, layers: Collection[str], third: Callable[[], Record]
) -> None:
    """What is said of one image must be said of it, as the second of two, beside any other."""
    dtypes = {value.dtype for value in first.values if value.of_images}
    alone, beside = answers_of(first, layers), answers_of(second, layers)
    others: dict[str | None, Any] = {}

    def beside_another(layer: str | None) -> Tensor:
        others.update(others or answers_of(third(), layers))
        return others[layer][1:]

    for layer, own in alone.items():
        maps = isinstance(own, Tensor) and own.dim() > 0
        pair = maps and (len(own), len(beside[layer])) == (1, 2)
        if pair and not rounds(own, beside[layer][1:], partial(beside_another, layer), dtypes):
            raise Untraceable("it answers otherwise for two images together than for each alone")


def _recorded(
    model: nn.Module, images: Tensor, layers: Collection[str], stop: Stop | None = None
) -> Record:
    """A pass that leaves the model and the images as they were."""
    # Every recording has the casts of weights: autocast keeps them, whatever weights are later.
    torch.clear_autocast_cache()
    try:
        with unchanged(model), uncompiled(model):
            return record(model, images.clone(), layers, stop)
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
    with unchanged(model), uncompiled(model), fast_forward():  # our own kernels may know the type
        return record(model, images.clone(), layers, stop)


def _answers(graph: Graph, images: Tensor, layers: Collection[str]) -> dict[str | None, Tensor]:
    """The graph's value as None, and by name those of these layers."""
    wanted: dict[int, list[str | None]] = {graph.output: [None]}
    for layer in layers:
        node = graph.layer(layer)
        if node is not None:
            wanted.setdefault(node.index, []).append(layer)
    values: dict[int, Any] = {0: images.clone()}
    found: dict[str | None, Tensor] = {}
    for node in graph.nodes:
        values[node.index] = graph.evaluate(node, values)
        found |= dict.fromkeys(wanted.get(node.index, ()), values[node.index])
        for index in graph.released.get(node.index, ()):
            del values[index]
    return found


def _compare(value: Tensor, answer: Any) -> None:
    if not isinstance(answer, Tensor) or answer.shape != value.shape:
        got = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise Untraceable(f"its trace returns {list(value.shape)}, it returns {got}")
    if torch.equal(value, answer):  # as a rule, and checked much faster
        return
    # The same calls in the same order: what differs is what a parallel sum may differ by.
    tolerance = 0.0
    if value.is_floating_point():
        tolerance = 32 * torch.finfo(value.dtype).eps
        # Rounded to a shorter type, numbers that differ by that may become neighbours in it.
        tolerance = max(tolerance, 4 * precision(value.device, value.dtype).eps)
    scale = float(answer.nan_to_num(0, 0, 0).abs().max()) if answer.numel() else 0.0
    if not torch.allclose(value, answer, tolerance, tolerance * scale, equal_nan=True):
        raise Untraceable("its trace answers otherwise than the model itself")
