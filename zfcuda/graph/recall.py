"""Graphs that were made before, found again by a rehearsal: the model's forward runs, but none of
its arithmetic does.

Every call is held against the recorded one and answered with memory of the recorded shape, which
costs microseconds however large the maps are. A model that makes the same calls with the same
tensors, and whose small tensors still hold the same numbers, has the same graph. Larger tensors are
read where they are.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zfcuda.graph.calls import Event, Made, Record, end_of, is_cast
from zfcuda.graph.guards import SMALL, unchanged
from zfcuda.graph.nodes import Graph
from zfcuda.graph.schemas import bare, place_of, same_place
from zfcuda.graph.watching import Watched, maker_of, told
from zfcuda.inference.checks import settings_of, uncompiled

_KEPT = 32  # graphs of one model

_lock = threading.Lock()
_graphs: WeakKeyDictionary[nn.Module, list[_Known]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class _Known:
    """A graph that is remembered, and what tells whether it is wanted again.

    Attributes:
        of: the images' shape, strides, dtype and device, and the layers asked for.
        settings: what the modules were set up with.
        constants: the memory that was there before, and a copy of what is small.
    """

    of: tuple[Any, ...]
    settings: tuple[Any, ...]
    constants: tuple[tuple[Tensor, Tensor], ...]
    events: tuple[Event, ...]
    graph: Graph


def recalled(model: nn.Module, images: Tensor, layers: Collection[str]) -> Graph | None:
    """The graph that was made of this model for images like these; None if there is none."""
    with _lock:
        known = [*_graphs.get(model, ())]
    if not known:
        return None
    of, settings = _of(images, layers), settings_of(model)
    for one in reversed(known):
        same = one.of == of and one.settings == settings and _are_as_they_were(one.constants)
        if same and _makes_the_same_calls(model, images, one.events):
            for weight, cast in one.graph.casts:  # the weight may be another by now
                cast.copy_(weight)
            return one.graph
    return None


def remember(
    model: nn.Module, images: Tensor, layers: Collection[str], made: Record, graph: Graph
) -> None:
    """Keep a model's graph for as long as the model lives, if it can be told from others."""
    if any(t.numel() > SMALL for t in _computed_from(made, layers, graph)):
        return  # it holds what must be computed anew
    constants = [bare(value.tensor) for value in made.values if value.tensor is not None]
    copies = tuple((t, t.clone()) for t in constants if t.numel() <= SMALL)
    one = _Known(_of(images, layers), settings_of(model), copies, tuple(made.events), graph)
    with _lock:
        known = _graphs.setdefault(model, [])
        if graph.casts:  # they take memory: of such graphs the latest is kept
            known[:] = [other for other in known if not other.graph.casts]
        known.append(one)
        del known[:-_KEPT]


def _of(images: Tensor, layers: Collection[str]) -> tuple[Any, ...]:
    device = images.device
    cast = torch.is_autocast_enabled(device.type)  # values then have other dtypes
    cast_to = torch.get_autocast_dtype(device.type) if cast else None
    return (images.shape, images.stride(), images.dtype, device, cast_to, tuple(layers))


def _are_as_they_were(constants: tuple[tuple[Tensor, Tensor], ...]) -> bool:
    if not all(_alike(*pair) for pair in constants):
        return False
    # A GPU is asked once about all of a type: every answer is a wait.
    together: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for number, pair in enumerate(constants):
        many = pair[0].is_cuda and pair[0].layout is torch.strided
        together.setdefault((pair[0].device, pair[0].dtype) if many else number, []).append(pair)
    return all(torch.equal(*map(_one, zip(*pairs, strict=True))) for pairs in together.values())


def _one(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat([t.reshape(-1) for t in tensors])


def _equal(a: Tensor, b: Tensor) -> bool:
    return _alike(a, b) and torch.equal(a, b)


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device


def _is_there(given: Tensor, recorded: Tensor) -> bool:
    """Whether a tensor is the memory that was recorded: it is kept, so that no other lies there."""
    if given is recorded:
        return True
    if type(given) not in (Tensor, nn.Parameter) or given.data_ptr() != recorded.data_ptr():
        return False
    return same_place(place_of(given), recorded)


_VIEWS = ("t", "view", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select")


def _computed_from(made: Record, layers: Collection[str], graph: Graph) -> list[Tensor]:
    """Constants of which a graph holds something that is computed, and will not be anew."""
    end = end_of(made, layers)[1]
    origins = {n: (v.tensor,) for n, v in enumerate(made.values) if v.tensor is not None}
    found: list[Tensor] = []
    results: dict[int, list[int]] = {}
    for number, value in enumerate(made.values):
        if value.call is not None and value.call < end and not value.of_images:
            results.setdefault(value.call, []).append(number)
    # A graph of later recordings lacks the casts that the model made once and has kept.
    anew = sum(is_cast(made.calls[number]) for number in results) == len(graph.casts)
    for number, values in results.items():
        call = made.calls[number]
        sources = tuple(t for value in call.taken for t in origins.get(value, ()))
        if call.name not in _VIEWS and not (anew and is_cast(call)):
            found.extend(sources)
        origins |= dict.fromkeys(values, sources)
    return found


# --- the rehearsal --------------------------------------------------------------------------------


class _Different(BaseException):  # no Exception: a model may catch those
    """The model makes another call than it made."""


class _Rehearsal(TorchDispatchMode):
    """Answers calls with memory of the shapes that were recorded."""

    def __init__(self, model: nn.Module, images: Tensor, events: tuple[Event, ...]) -> None:
        super().__init__()
        self.done, self.watched = 0, Watched()
        self._known = {*model.modules()}
        self._modules: list[nn.Module] = []
        self._events = events
        self._latest: Any = None  # held, or torch would detach no new tensor
        self._made = {id(images): (weakref.ref(images), Made(-1, 0))}  # by identity, while it lives

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch imports its compiler at the first call, two seconds for nothing."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.done == len(self._events):
            raise _Different
        event = self._events[self.done]
        maker = maker_of(self._modules[-1] if self._modules else None, self._known, self.watched)
        if maker != event.maker:
            raise _Different
        if func is not event.function or not self._same(event.arguments, (args, kwargs or {})):
            raise _Different
        if event.fails:
            self.done += 1
            func(*args, **(kwargs or {}))
            raise _Different  # it does not
        if event.outputs is None:  # of constants, or a view: it costs nothing
            result = func(*args, **(kwargs or {}))
        elif event.changes is not None:
            result = args[event.changes]
        else:
            found = [
                torch.empty_strided(*of[:2], dtype=of[2], device=of[3]) for of in event.outputs
            ]
            result = type(event.kind)(found) if event.kind is not None else found[0]
        for place, tensor in enumerate(result if isinstance(result, tuple | list) else (result,)):
            if isinstance(tensor, Tensor) and self._which(tensor) is None:
                self._made[id(tensor)] = (weakref.ref(tensor), Made(self.done, place))
        self.done += 1
        self._latest = result
        return result

    def begin(self, module: nn.Module, _: Any) -> None:
        self._modules.append(module)

    def end(self, module: nn.Module, *_: Any) -> None:
        self._modules.pop()

    def own(self, tensor: Any) -> None:
        """What a function with a backward of its own returned."""

    def detached(self, tensor: Tensor) -> None:
        """What makes the next call tells."""

    def refuse(self, reason: str) -> NoReturn:
        raise _Different

    def is_of_images(self, tensor: Tensor) -> bool:
        made = self._which(tensor)
        return made is not None and self._is_of_images(made.event)

    def _is_of_images(self, event: int) -> bool:
        """Whether an event's results stand for other numbers, or are views of what does."""
        if event < 0 or self._events[event].outputs is not None:
            return True
        given = tree_leaves(self._events[event].arguments, is_leaf=lambda a: isinstance(a, Made))
        return any(self._is_of_images(a.event) for a in given if isinstance(a, Made))

    def _which(self, tensor: Tensor) -> Made | None:
        """The call that returned a tensor; None for one that was there before."""
        reference, made = self._made.get(id(tensor), (None, None))
        return made if reference is not None and reference() is tensor else None

    def _same(self, recorded: Any, given: Any) -> bool:
        if isinstance(given, Tensor):
            made = self._which(given)
            if isinstance(recorded, Made):
                return made == recorded
            is_constant = made is None and isinstance(recorded, Tensor)
            return is_constant and (_is_there(given, recorded) or _equal(given, recorded))
        if isinstance(given, tuple | list):
            alike = type(given) is type(recorded) and len(given) == len(recorded)
            return alike and all(map(self._same, recorded, given))
        if isinstance(given, dict):
            return given.keys() == recorded.keys() and all(
                self._same(recorded[name], value) for name, value in given.items()
            )
        return type(given) is type(recorded) and (given == recorded or given is recorded)


def _makes_the_same_calls(model: nn.Module, images: Tensor, events: tuple[Event, ...]) -> bool:
    copy = torch.empty_like(images)
    rehearsal = _Rehearsal(model, copy, events)
    torch.clear_autocast_cache()  # as before it was recorded
    try:
        with unchanged(model), uncompiled(model), told(rehearsal), rehearsal:
            model(copy)
    except (_Different, Exception):  # made of other numbers, it may even fail
        return False
    return rehearsal.done == len(events)
