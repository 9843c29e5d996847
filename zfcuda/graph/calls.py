"""What a recording of a model's pass holds (:mod:`zfcuda.graph.record`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def tensors_in(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among the arguments of a call of ATen, which are tensors or lists of them."""
    found: list[Tensor] = []
    for given in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(given, Tensor):
            found.append(given)
        elif isinstance(given, list | tuple):
            found.extend(t for t in given if isinstance(t, Tensor))
    return found


def with_tensors(change: Callable[[Tensor], Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of a call of ATen with something in the place of each tensor."""

    def changed(given: Any) -> Any:
        if isinstance(given, Tensor):
            return change(given)
        if given is None or isinstance(given, int | float):  # most are
            return given
        if isinstance(given, list | tuple) and any(isinstance(t, Tensor) for t in given):
            return type(given)(change(t) if isinstance(t, Tensor) else t for t in given)
        return given

    return tuple(map(changed, args)), {name: changed(given) for name, given in kwargs.items()}


class Ref(NamedTuple):
    """A recorded value, as an argument."""

    value: int


@dataclass(frozen=True, eq=False)
class Recorded:
    """A value.

    Attributes:
        call: the call that made it, and which of its results it is; None for tensors that were
            there before, the images (value 0) and constants.
        tensor: such a constant.
        shape, dtype, device: of the tensor when it was made.
        of_images: whether it depends on the images.
    """

    call: int | None
    place: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    of_images: bool
    tensor: Tensor | None = None


def is_cast(call: Call) -> bool:
    """Whether a call makes the numbers of one tensor those of another type, as autocast does."""
    return call.function is torch.ops.aten._to_copy.default


@dataclass(eq=False)
class Call:
    """A call.

    Attributes:
        function: of ATen or another library; it changes nothing.
        args, kwargs: its arguments, with :class:`Ref` in the place of tensors.
        several: whether it returns several tensors.
        layer: name of the module of torch.nn or zfcuda.nn whose forward it is part of; None
            without one.
        author: what the model's author knows it by.
        custom: name of the torch.autograd.Function that makes it, and whose backward is not the
            call's; "no_grad" where the model made it without gradients.
        within: name of the innermost module whose forward it is part of; "" for the model itself.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    several: bool = False
    layer: str | None = None
    author: str = ""
    custom: str = ""
    within: str = ""

    @property
    def place(self) -> str:
        """Where it is made, to be added to a sentence."""
        return f" in {self.within!r}" if self.within else ""

    @property
    def taken(self) -> list[int]:
        """The values among its arguments."""
        found: list[int] = []
        tree_map_only(
            Ref,
            lambda ref: found.append(ref.value),
            (self.args, self.kwargs),
            is_leaf=lambda a: isinstance(a, Ref),
        )
        return found

    @property
    def name(self) -> str:
        packet = getattr(self.function, "overloadpacket", self.function)
        return getattr(packet, "__name__", "call")


class Made(NamedTuple):
    """A tensor that a call returned, by the number of the event and of the result."""

    event: int
    place: int


class Event(NamedTuple):
    """A call as it was made, to be told again.

    Attributes:
        arguments: positional and named ones, with :class:`Made` in the place of tensors that
            calls returned.
        outputs: size, stride, dtype and device of each result; None for a call that is to be made
            again: it views what it gets, or does not depend on the images.
        changes: the place of the argument that it works in and returns.
        kind: a tuple or list where it returns several.
        maker: the module and the torch.autograd.Function that made it, and whether it was made
            without gradients.
        fails: it raised an error, which its arguments' shapes and types make certain.
    """

    function: Any
    arguments: tuple[Any, Any]
    outputs: tuple[tuple[Any, ...], ...] | None
    changes: int | None
    kind: tuple[()] | list[Any] | None
    maker: Any
    fails: bool = False


@dataclass(frozen=True)
class Returned:
    """A module's output as it returns.

    Attributes:
        count: of the calls made by then.
        output: a copy of it, if it was asked for.
    """

    names: tuple[str, ...]
    value: int
    count: int
    output: Tensor | None = field(default=None, compare=False)


@dataclass(eq=False)
class Record:
    """One pass of a model; ``answer`` is what the model returned, ``output`` its value. ``events``
    are the calls as they were made, before anything was made of them."""

    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    values: list[Recorded] = field(default_factory=list)
    returned: list[Returned] = field(default_factory=list)
    answer: Any = None
    output: int | None = None


class Stop(NamedTuple):
    """Where a recording ends: the return of that module's call of this number."""

    name: str
    times: int


def end_of(record: Record, layers: Collection[str]) -> tuple[int | None, int]:
    """The value that a graph of these layers ends with, and how many calls precede it: where the
    last of them returns, or the whole model does."""
    last = _last(record, layers)
    return (record.output, len(record.calls)) if last is None else (last.value, last.count)


def answer_of(record: Record, layers: Collection[str]) -> Any:
    """What the model, or the last of these layers, returned."""
    last = _last(record, layers)
    return record.answer if last is None else last.output


def answers_of(record: Record, layers: Collection[str]) -> dict[str | None, Any]:
    """:func:`answer_of` as None, and by name the outputs of these layers up to there."""
    _, count = end_of(record, layers)
    found = {
        name: done.output
        for done in record.returned
        for name in done.names
        if name in layers and done.count <= count
    }
    return {None: answer_of(record, layers), **found}


def stop_at(record: Record, layers: Collection[str]) -> Stop | None:
    """Where a recording for these layers may end; None where the whole model is wanted."""
    last = _last(record, layers)
    if last is None or "" in last.names:
        return None
    before = record.returned[: record.returned.index(last) + 1]
    return Stop(last.names[0], sum(last.names[0] in done.names for done in before))


def _last(record: Record, layers: Collection[str]) -> Returned | None:
    at = {name: at for at, done in enumerate(record.returned) for name in done.names}
    if not layers or not all(name in at for name in layers):
        return None
    return record.returned[max(at[name] for name in layers)]
