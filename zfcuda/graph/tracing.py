"""From a model to its graph, checked; one that was traced before is found again.

Checking a trace takes two passes of the model, following its forward next to nothing. So that is
done every time, and a graph found earlier is used again where all that it was made of is as it was:
the calls and their arguments, the modules and their settings, and of the tensors who they are and,
since a graph holds numbers made of small ones (batch norm's), the small ones' values. Calls that
treat pixels alone were found by trying them out: matrices must not have changed since, for one of
zeros hides what it is multiplied with.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from zfcuda.graph.building import answer_of, build, end_of, stop_at
from zfcuda.graph.guards import Untraceable, refuse, unchanged
from zfcuda.graph.nodes import Graph
from zfcuda.graph.record import Call, Record, Ref, Stop, record
from zfcuda.inference.checks import uncompiled
from zfcuda.inference.passes import agree

_one_at_a_time = threading.RLock()  # hooks of all modules tell a recording which of them run
_SMALL = 2**16  # elements; larger tensors are read where they are, never copied
_KEPT = 32  # graphs of one model

_lock = threading.Lock()
_graphs: WeakKeyDictionary[nn.Module, list[_Known]] = WeakKeyDictionary()


def trace(model: nn.Module, x: Tensor, layers: Collection[str] = (), mixing: bool = False) -> Graph:
    """The model's graph for images like ``x``.

    The model's pass is recorded, of one image and of two; what the graph then answers must be what
    the model did. Of a model that was traced before, and makes the same calls with the same
    tensors, one pass is recorded.

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
        images = x[:1].detach()
        settings = _settings(model)
        stop = _expected_end(model, settings, layers)
        first = _recorded(model, images, layers, stop)
        graph = _find(model, _mark(first, images, layers))
        if graph is not None and graph.mixes and not mixing:
            graph = None
        if graph is None:
            if stop is not None:  # it is not what it was: it may call the layer again
                first = _recorded(model, images, layers)
            stop = stop_at(first, layers)
            other = x[1:2] if len(x) > 1 else images.flip(3) / 2
            two = torch.cat([other.detach(), images])
            second = _recorded(model, two, layers, stop)
            graph = build(first, second, layers, mixing)
            if not graph.mixes:
                _require_alone(answer_of(first, layers), answer_of(second, layers))
            _compare(_answer(graph, two), answer_of(second, layers))
            mark = _mark(first, images, layers)
            _keep(model, _Known(mark, graph, settings, tuple(layers), stop))
        return graph


def _recorded(
    model: nn.Module, images: Tensor, layers: Collection[str], stop: Stop | None = None
) -> Record:
    """A pass that leaves the model and the images as they were."""
    with unchanged(model), uncompiled(model):
        return record(model, images.clone(), layers, stop)


def _answer(graph: Graph, images: Tensor) -> Tensor:
    values: dict[int, Any] = {0: images.clone()}
    for node in graph.nodes:
        values[node.index] = graph.evaluate(node, values)
    return values[graph.output]


def _require_alone(one: Tensor, two: Tensor) -> None:
    """What the image says alone it must say together with another."""
    if not agree(two[1:], one):
        raise Untraceable("it answers otherwise for two images together than for each alone")


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


# --- graphs found again ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Mark:
    """What a graph was made of."""

    plain: tuple[Any, ...]
    tensors: tuple[Tensor, ...]
    values: tuple[Tensor | None, ...]

    def matches(self, other: _Mark) -> bool:
        return (
            self.plain == other.plain
            and len(self.tensors) == len(other.tensors)
            and all(
                mine is its or value is not None
                for mine, its, value in zip(self.tensors, other.tensors, self.values, strict=True)
            )
            and all(
                mine is None or torch.equal(mine, its)
                for mine, its in zip(self.values, other.values, strict=True)
            )
        )


def _mark(made: Record, images: Tensor, layers: Collection[str]) -> _Mark | None:
    """What tells a recording from others; None where computed tensors would be held that must be
    computed anew."""
    output, count = end_of(made, layers)
    device = images.device
    plain: list[Any] = [
        (output, count, tuple(layers)),
        tuple(done for done in made.returned if done.count <= count),
        *(tuple(images.shape), images.stride(), images.dtype, device),
    ]
    used = {ref.value for call in made.calls[:count] for ref in _refs(call)}
    for call in made.calls[:count]:
        plain += [call.function, call.args, sorted(call.kwargs.items()), call.layer, call.author]
    tensors = [v.tensor for n, v in enumerate(made.values) if v.tensor is not None and n in used]
    if any(t.numel() > _SMALL for t in _computed_from(made, count)):
        return None
    plain += [(tuple(t.shape), t.dtype, t.device) for t in tensors]
    values = tuple(t.detach().clone() if t.numel() <= _SMALL else None for t in tensors)
    return _Mark(tuple(plain), tuple(tensors), values)


def _refs(call: Call) -> list[Ref]:
    found: list[Ref] = []
    tree_map_only(Ref, found.append, (call.args, call.kwargs), is_leaf=lambda a: isinstance(a, Ref))
    return found


_VIEWS = {"t", "view", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select"}


def _computed_from(made: Record, count: int) -> list[Tensor]:
    """Constants of which a graph holds something that is computed."""
    origins: dict[int, tuple[Tensor, ...]] = {}
    found: list[Tensor] = []
    by_call: dict[int, list[int]] = {}
    for number, value in enumerate(made.values):
        if value.tensor is not None:
            origins[number] = (value.tensor,)
        elif value.call is not None:
            by_call.setdefault(value.call, []).append(number)
    for number, call in enumerate(made.calls[:count]):
        refs = _refs(call)
        if any(made.values[ref.value].of_images for ref in refs):
            continue
        sources = tuple(t for ref in refs for t in origins.get(ref.value, ()))
        if call.name not in _VIEWS:
            found.extend(sources)
        for value in by_call.get(number, ()):
            origins[value] = sources
    return found


@dataclass(frozen=True, eq=False)
class _Known:
    """A graph that is remembered, and what tells whether it is wanted again."""

    mark: _Mark | None
    graph: Graph
    settings: tuple[Any, ...]
    layers: tuple[str, ...]
    stop: Stop | None


def _expected_end(
    model: nn.Module, settings: tuple[Any, ...], layers: Collection[str]
) -> Stop | None:
    """Where the recording for these layers ended, if the model's modules are as they were."""
    with _lock:
        known = [*_graphs.get(model, ())]
    alike = (k for k in known if k.layers == tuple(layers) and k.settings == settings)
    return next((k.stop for k in alike), None)


def _find(model: nn.Module, current: _Mark | None) -> Graph | None:
    """The model's graph with this mark, or None."""
    with _lock:
        known = [*_graphs.get(model, ())]
    for one in known:
        if current is not None and one.mark.matches(current):
            return one.graph
    return None


def _keep(model: nn.Module, made: _Known) -> None:
    """Remember a model's graph for as long as the model lives, if it can be told from others."""
    if made.mark is not None:
        with _lock:
            known = _graphs.setdefault(model, [])
            known.append(made)
            del known[:-_KEPT]


def _settings(model: nn.Module) -> tuple[Any, ...]:
    """What the model's modules are set up with."""
    return tuple(
        (
            id(module),
            *((n, [*v] if isinstance(v, list) else v) for n, v in vars(module).items() if _told(v)),
        )
        for module in model.modules()
    )


def _told(value: Any) -> bool:
    """Whether it is of what modules are set up with; others may hang lists of tensors on them."""
    if isinstance(value, tuple | list):
        return all(map(_told, value))
    return isinstance(value, int | float | str | type(None))
