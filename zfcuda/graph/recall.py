"""Graphs of models that were traced before, for as long as a model makes the same calls.

Checking a trace takes two passes of the model, following its forward next to nothing. So that is
done every time, and a graph found earlier is used again where all that it was made of is as it was:
the calls and their arguments, the modules and their settings, and of the tensors who they are and,
since a graph holds numbers made of small ones (batch norm's), the small ones' values. Calls that
treat pixels alone were found by trying them out: matrices must not have changed since, for one of
zeros hides what it is multiplied with.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch.fx
from torch import Tensor, nn
from torch.fx.node import map_aggregate

_SMALL = 2**16  # elements; larger tensors are read where they are, never copied
_KEPT = 32  # graphs of one model

_lock = threading.Lock()
_known: WeakKeyDictionary[nn.Module, list[tuple[Mark, Any]]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Mark:
    """What a graph was made of."""

    plain: tuple[Any, ...]
    modules: tuple[nn.Module, ...]
    tensors: tuple[Tensor, ...]
    values: tuple[Tensor | None, ...]

    def matches(self, other: Mark) -> bool:
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


def mark(
    calls: torch.fx.Graph, modules: Mapping[str, nn.Module], count: int, *circumstances: Any
) -> Mark | None:
    """The mark of a trace's first ``count`` calls, or None where they do not tell everything."""
    plain: list[Any] = [count, *circumstances]
    used: dict[int, nn.Module] = {}
    tensors: dict[int, Tensor] = {}

    def seen(argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return ("value", argument.name)
        if isinstance(argument, Tensor):
            tensors[id(argument)] = argument
            return ("tensor", [*tensors].index(id(argument)))
        return argument

    for call in islice(calls.nodes, count):
        if call.op == "get_attr":
            return None
        plain += [call.op, call.target, call.name, map_aggregate((call.args, call.kwargs), seen)]
        if call.op == "call_module":
            module = modules[call.target]
            used[id(module)] = module
    for module in used.values():
        if any(map(callable, vars(module).values())):  # a forward of its own
            return None
        plain += [type(module), _settings(module)]
        for tensor in (*module.parameters(), *module.buffers()):
            tensors[id(tensor)] = tensor
    plain += [(tuple(t.shape), t.dtype, t.device, _changes(t)) for t in tensors.values()]
    values = tuple(t.detach().clone() if t.numel() <= _SMALL else None for t in tensors.values())
    return Mark(tuple(plain), (*used.values(),), (*tensors.values(),), values)


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


def find(model: nn.Module, current: Mark | None) -> Any:
    """The model's graph with this mark, or None."""
    with _lock:
        known = [*_known.get(model, ())]
    for its, graph in known:
        if current is not None and its.matches(current):
            return graph
    return None


def keep(model: nn.Module, current: Mark | None, graph: Any) -> None:
    """Remember a model's graph for as long as the model lives, if it can be told from others."""
    # A graph that holds the model itself would keep it alive for ever.
    if current is not None and all(module is not model for module in current.modules):
        with _lock:
            known = _known.setdefault(model, [])
            known.append((current, graph))
            del known[:-_KEPT]
