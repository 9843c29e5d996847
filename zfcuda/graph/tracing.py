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
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from zfcuda.graph.guards import CallFailed, Untraceable, refuse, unchanged
from zfcuda.graph.interpreter import Interpreter
from zfcuda.graph.nodes import Graph
from zfcuda.graph.symbolic import End, Tracer, follow
from zfcuda.inference.checks import uncompiled
from zfcuda.inference.passes import layer_outputs

_SMALL = 2**16  # elements; larger tensors are read where they are, never copied
_KEPT = 32  # graphs of one model

_lock = threading.Lock()
_known: WeakKeyDictionary[nn.Module, list[tuple[_Mark, Graph]]] = WeakKeyDictionary()


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
    with (
        unchanged(model),
        uncompiled(model),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        tracer = follow(model)
        end = tracer.end(layers)
        images = x[:2].detach()
        mark = _mark(tracer, end, images)
        graph = _find(model, mark)
        if graph is None:
            try:
                graph, value = Interpreter(tracer).run(images.clone(), end)
            except CallFailed:
                _answer(model, images.clone(), end)  # an image that it cannot take is its own error
                raise
            _compare(value, _answer(model, images.clone(), end))
            _keep(model, mark, graph)
        return graph


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


# --- graphs found again ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Mark:
    """What a graph was made of."""

    plain: tuple[Any, ...]
    modules: tuple[nn.Module, ...]
    tensors: tuple[Tensor, ...]
    values: tuple[Tensor | None, ...]

    def matches(self, other: _Mark) -> bool:
        return (
            self.plain == other.plain
            and _same(self.modules, other.modules)
            and _same(self.tensors, other.tensors)
            and all(
                mine is None or torch.equal(mine, its)
                for mine, its in zip(self.values, other.values, strict=True)
            )
        )


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(some) == len(others) and all(map(lambda a, b: a is b, some, others))


def _mark(tracer: Tracer, end: End, images: Tensor) -> _Mark | None:
    """The mark of a trace as far as its end, or None where its calls do not tell everything."""
    if any(_makes_its_weights(module) for module in tracer.modules.values()):
        return None
    device = images.device
    cast = torch.is_autocast_enabled(device.type)  # values then have other dtypes
    plain: list[Any] = [
        end.count,
        end.layers,
        tuple((done.count, done.names) for done in tracer.returned if done.count <= end.count),
        *(tuple(images.shape), images.stride(), images.dtype, device),
        torch.get_autocast_dtype(device.type) if cast else None,
    ]
    used: dict[int, nn.Module] = {}
    tensors: dict[int, Tensor] = {}

    def seen(argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return ("value", argument.name)
        if isinstance(argument, Tensor):
            tensors[id(argument)] = argument
            return ("tensor", [*tensors].index(id(argument)))
        return argument

    for call in islice(tracer.graph.nodes, end.count):
        if call.op == "get_attr":
            return None
        plain += [call.op, call.target, call.name, map_aggregate((call.args, call.kwargs), seen)]
        if call.op == "call_module":
            module = tracer.modules[call.target]
            used[id(module)] = module
    for module in used.values():
        if any(map(callable, vars(module).values())):  # a forward of its own
            return None
        plain += [type(module), _settings(module)]
        for tensor in (*module.parameters(), *module.buffers()):
            tensors[id(tensor)] = tensor
    plain += [(tuple(t.shape), t.dtype, t.device, _changes(t)) for t in tensors.values()]
    values = tuple(t.detach().clone() if t.numel() <= _SMALL else None for t in tensors.values())
    return _Mark(tuple(plain), (*used.values(),), (*tensors.values(),), values)


def _makes_its_weights(module: nn.Module) -> bool:
    """Whether weights are computed when they are read (parametrisations): a graph that holds them
    holds what they were."""
    read = (getattr(module, name, None) for name in ("weight", "bias"))
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(isinstance(w, Tensor) and not any(w is mine for mine in own) for w in read)


def _changes(tensor: Tensor) -> int | None:
    """Of matrices too large to be compared, how often they were changed in place."""
    told = tensor.dim() == 2 and tensor.numel() > _SMALL and not tensor.is_inference()
    return tensor._version if told else None


def _settings(module: nn.Module) -> tuple[Any, ...]:
    return tuple(
        (name, [*v] if isinstance(v, list) else v)  # a list may be changed where it is
        for name, v in vars(module).items()
        if _is_setting(v)
    )


def _is_setting(value: Any) -> bool:
    """Whether it is of what modules are set up with; others may hang lists of tensors on them."""
    if isinstance(value, tuple | list):
        return all(map(_is_setting, value))
    return isinstance(value, int | float | str | type(None))


def _find(model: nn.Module, current: _Mark | None) -> Graph | None:
    """The model's graph with this mark, or None."""
    with _lock:
        known = [*_known.get(model, ())]
    for its, graph in known:
        if current is not None and its.matches(current):
            return graph
    return None


def _keep(model: nn.Module, current: _Mark | None, graph: Graph) -> None:
    """Remember a model's graph for as long as the model lives, if it can be told from others."""
    # A graph that holds the model itself would keep it alive for ever.
    if current is not None and all(module is not model for module in current.modules):
        with _lock:
            known = _known.setdefault(model, [])
            known.append((current, graph))
            del known[:-_KEPT]
