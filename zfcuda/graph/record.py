"""A model's own pass as the ATen calls that it makes.

What Python did to arrive at a call does not matter: control flow on shapes is taken as it comes,
modules, functions, methods and TorchScript make the same calls. A recorded value is a *version* of
a tensor: a call that works in place makes a new one, also of everything that shares its memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from zfcuda.graph.guards import Untraceable
from zfcuda.inference.interception import author_of

aten = torch.ops.aten


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
            call's.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    several: bool = False
    layer: str | None = None
    author: str = ""
    custom: str = ""

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
        maker: the module and the torch.autograd.Function that made it.
    """

    function: Any
    arguments: tuple[Any, Any]
    outputs: tuple[tuple[Any, ...], ...] | None
    changes: int | None
    kind: tuple[()] | list[Any] | None
    maker: Any


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


class _Step(NamedTuple):
    """A call that gave a view."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | None  # which of several results
    below: tuple[int, ...]  # shape of what was viewed


@dataclass(eq=False)
class _Slot:
    """A tensor during the recording.

    Attributes:
        tensor: kept, so that neither its identity nor its memory is given to another.
        value: its version, as of ``seen``.
        root: the tensor whose memory it views; itself for one with memory of its own.
        views: from the root to it.
        changes: of a root, how often its memory was written.
        constant: whether it was there before.
    """

    tensor: Tensor
    value: int
    root: _Slot | None = None
    views: tuple[_Step, ...] = ()
    seen: int = 0
    changes: int = 0
    constant: bool = False


class _Recorder(TorchDispatchMode):
    def __init__(
        self, model: nn.Module, images: Tensor, kept: Collection[str], stop: Stop | None
    ) -> None:
        super().__init__()
        self.record = Record()
        self._kept = kept
        self._stop = stop
        self.refused = ""
        self.custom = ""  # the torch.autograd.Function that runs
        self._made: dict[int, Made] = {id(images): Made(-1, 0)}
        self._held: list[Tensor] = []
        self._slots: dict[int, _Slot] = {}
        self._memory: dict[int, _Slot] = {}  # by storage, its root
        self._own = {
            _storage(t)
            for t in (*model.parameters(), *model.buffers())
            if t.layout is torch.strided
        }
        self._modules: list[tuple[nn.Module, int]] = []  # those that run, and the calls before them
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._new(images, None, 0, of_images=True)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: else torch imports its compiler at the first call, two seconds for nothing."""
        return False

    # --- values -----------------------------------------------------------------------------------

    def _value(
        self, like: Tensor, call: int | None, place: int, of_images: bool, tensor: Any = None
    ) -> int:
        values = self.record.values
        values.append(
            Recorded(call, place, tuple(like.shape), like.dtype, like.device, of_images, tensor)
        )
        return len(values) - 1

    def _new(self, tensor: Tensor, call: int | None, place: int, of_images: bool) -> _Slot:
        """A tensor with memory of its own."""
        constant = call is None and not of_images
        value = self._value(tensor, call, place, of_images, tensor if constant else None)
        return self._owner(tensor, value, constant)

    def _owner(self, tensor: Tensor, value: int, constant: bool = False) -> _Slot:
        slot = _Slot(tensor, value, constant=constant)
        slot.root = slot
        self._slots[id(tensor)] = slot
        self._memory.setdefault(_storage(tensor), slot)
        return slot

    def slot(self, tensor: Tensor) -> _Slot:
        """The tensor's, with the value that it has by now."""
        slot = self._slots.get(id(tensor))
        if slot is None:
            known = self._memory.get(_storage(tensor))
            if known is None or known.constant:
                return self._new(tensor, None, 0, of_images=False)
            if not _same_place(known.tensor, tensor):
                raise Untraceable("it looks at a value's memory in a way that torch does not tell")
            slot = _Slot(tensor, known.value, known, (), known.changes)
            self._slots[id(tensor)] = slot
        if slot.seen != slot.root.changes:
            value = slot.root.value
            for step in slot.views:
                value = self._viewed(step, value)
            slot.value, slot.seen = value, slot.root.changes
        return slot

    def is_of_images(self, tensor: Tensor) -> bool:
        return self.record.values[self.slot(tensor).value].of_images

    def ref(self, tensor: Tensor) -> Ref:
        return Ref(self.slot(tensor).value)

    # --- calls ------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        try:
            return self._followed(func, args, kwargs or {})
        except Untraceable as error:
            self.refused = str(error)  # not itself: it holds this frame, and the caller's tensors
            raise

    def _followed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The call's result, noted."""
        spec = _spec(func)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        slots = [self.slot(tensor) for tensor in given]
        of_images = any(self.record.values[slot.value].of_images for slot in slots)
        _refuse(func, spec, args, kwargs, of_images)
        refs = tree_map_only(Tensor, self.ref, (args, kwargs))
        changed = [t for t in map(spec.argument(args, kwargs), spec.written) if t is not None]
        for tensor in changed:
            if _storage(tensor) in self._own:
                raise Untraceable("its forward changes its own parameters or buffers")
            if not isinstance(tensor, Tensor) or self._slots[id(tensor)].root.constant:
                raise Untraceable(f"{func} changes a tensor that it has not made")
        same_numbers = func is aten.as_strided_.default and _same_numbers(*args)
        told = tree_map_only(Tensor, self._told, (args, kwargs))
        result = func(*args, **kwargs)
        self._note(func, told, given, result, of_images)
        if same_numbers:
            return result  # the same, said in other strides
        if changed:
            self._changed(func, spec, refs, changed, result, of_images)
        else:
            self._returned(func, spec, refs, given, result, of_images)
        return result

    def _told(self, tensor: Tensor) -> Made | Tensor:
        return self._made.get(id(tensor), tensor)

    def _note(
        self, func: Any, told: Any, given: list[Tensor], result: Any, of_images: bool
    ) -> None:
        """Note the call as it was made. The recording keeps all tensors, so that none of their
        identities is taken over."""
        several = isinstance(result, tuple | list)
        found = list(result) if several else [result]
        number, memory = len(self.record.events), {_storage(t) for t in given}
        plain = all(isinstance(t, Tensor) for t in found)
        same = next((i for i, t in enumerate(given) if t is result), None)
        views = not plain or any(_storage(t) in memory for t in found)
        outputs = None
        if of_images and same is None and not views:
            outputs = tuple((t.shape, t.stride(), t.dtype, t.device) for t in found)
        elif of_images and same == 0 and func is not aten.as_strided_.default:
            outputs = ()
        changes = 0 if outputs == () else None
        kind = (() if isinstance(result, tuple) else []) if several else None
        maker = maker_of(self._modules[-1][0] if self._modules else None, self._names, self.custom)
        self.record.events.append(Event(func, told, outputs, changes, kind, maker))
        for place, tensor in enumerate(found):
            if isinstance(tensor, Tensor) and id(tensor) not in self._made:
                self._made[id(tensor)] = Made(number, place)
                self._held.append(tensor)

    def _call(self, function: Any, args: Any, kwargs: Any, several: bool) -> int:
        """The number of a new call."""
        calls = self.record.calls
        author = self._author() or self.custom
        calls.append(Call(function, tuple(args), dict(kwargs), several, None, author, self.custom))
        return len(calls) - 1

    def _author(self) -> str:
        for module, _ in reversed(self._modules):
            names = self._names.get(module)
            author = author_of(module, names[0]) if names else ""
            if author:
                return author
        return ""

    def _returned(
        self,
        func: Any,
        spec: _Spec,
        refs: Any,
        given: list[Tensor],
        result: Any,
        of_images: bool,
    ) -> None:
        """Note what a call returned that changes nothing."""
        if _canonical(func) is aten.view.default:  # however its sizes were given
            refs = ((refs[0][0], list(result.shape)), {})
        several = isinstance(result, tuple | list)
        found = list(result) if several else [result]
        first = given[0] if given else None
        if first is not None and isinstance(result, Tensor) and _says_nothing(func, first, result):
            value = self.slot(first).value
            if id(result) not in self._slots:
                self._alike(result, first, value)
            return
        call = None
        for place, tensor in enumerate(found):
            if not isinstance(tensor, Tensor) or id(tensor) in self._slots:
                continue
            if call is None:
                call = self._call(_canonical(func), *refs, several)
            root = self._memory.get(_storage(tensor)) if tensor.numel() else None
            of = spec.viewed(given) if root is not None else None
            value = self._value(tensor, call, place, of_images)
            if root is None or of is None or root.constant:
                self._owner(tensor, value, root is not None and root.constant)
                continue
            below = self._slots[id(of)]
            step = _Step(_canonical(func), *refs, place if several else None, tuple(of.shape))
            self._slots[id(tensor)] = _Slot(
                tensor, value, below.root, (*below.views, step), below.root.changes
            )

    def _alike(self, tensor: Tensor, other: Tensor, value: int) -> None:
        """Another tensor of the same numbers; perhaps in the same memory."""
        root = self._memory.get(_storage(tensor))
        below = self._slots[id(other)]
        if root is None or not tensor.numel():
            self._owner(tensor, value)
        elif _same_place(tensor, other):
            self._slots[id(tensor)] = _Slot(tensor, value, below.root, below.views, below.seen)
        else:
            raise Untraceable("it looks at a value's memory in a way that torch does not tell")

    def own(self, tensor: Any) -> None:
        """Note that a tensor is what a function with a backward of its own returned, which may be
        what it was given."""
        if isinstance(tensor, Tensor):
            slot = self.slot(tensor)
            call = self._call(aten.alias.default, (Ref(slot.value),), {}, False)
            old = self.record.values[slot.value]
            slot.value = self._value(tensor, call, 0, old.of_images)

    # --- changes in place -------------------------------------------------------------------------

    def _changed(
        self,
        func: Any,
        spec: _Spec,
        refs: Any,
        changed: list[Tensor],
        result: Any,
        of_images: bool,
    ) -> None:
        if len(changed) > 1:
            raise Untraceable(f"{func} changes several tensors at once")
        (tensor,) = changed
        function = _functional(func) or _OnACopy(func, spec.written[0])
        call = self._call(function, *refs, several=False)
        slot = self._slots[id(tensor)]
        slot.value = self._value(tensor, call, 0, of_images)
        root = slot.root
        value = slot.value
        if slot.views:
            beneath = [root.value]
            for step in slot.views[:-1]:
                beneath.append(self._viewed(step, beneath[-1]))
            for step, below in zip(reversed(slot.views), reversed(beneath), strict=True):
                value = self._put_back(step, below, value)
        root.value = value
        root.changes += 1
        root.seen = slot.seen = root.changes

    def _viewed(self, step: _Step, below: int) -> int:
        """The view of a new version of what was viewed."""
        args, kwargs = _filled(step, below)
        several = step.place is not None
        call = self._call(step.function, args, kwargs, several)
        shaped = torch.empty(step.below, device="meta")
        with _disable_current_modes():
            found = step.function(*_filled(step, shaped, raw=True)[0], **kwargs)
        found = found[step.place] if several else found
        return self._value_like(found.shape, below, call, step.place or 0)

    def _put_back(self, step: _Step, below: int, above: int) -> int:
        """What was viewed, with the view changed."""
        function, args = _scattered(step, Ref(below), Ref(above))
        call = self._call(function, args, {}, several=False)
        of_images = self.record.values[above].of_images or self.record.values[below].of_images
        return self._value_like(step.below, below, call, 0, of_images)

    def _value_like(
        self, shape: Any, like: int, call: int, place: int, of_images: bool | None = None
    ) -> int:
        values, old = self.record.values, self.record.values[like]
        of_images = old.of_images if of_images is None else of_images
        values.append(Recorded(call, place, tuple(shape), old.dtype, old.device, of_images))
        return len(values) - 1

    # --- modules ----------------------------------------------------------------------------------

    def begin(self, module: nn.Module, _: Any) -> None:
        self._modules.append((module, len(self.record.calls)))

    def end(self, module: nn.Module, _: Any, output: Any) -> None:
        own, before = self._modules.pop()
        names = tuple(self._names.get(own, ()))
        if names and _is_a_layer(own):
            for call in self.record.calls[before:]:
                call.layer = names[0] if call.layer is None else call.layer
        if isinstance(output, Tensor) and names:
            value, count = self.slot(output).value, len(self.record.calls)
            with _disable_current_modes():
                copy = output.clone() if {*names} & {*self._kept} else None
            self.record.returned.append(Returned(names, value, count, copy))
            if self._stop is not None and self._stop.name in names:
                times = sum(self._stop.name in done.names for done in self.record.returned)
                if times == self._stop.times:
                    raise _Stopped


class Stop(NamedTuple):
    """Where a recording ends: the return of that module's call of this number."""

    name: str
    times: int


class _Stopped(BaseException):  # no Exception: a model may catch those
    pass


def _is_a_layer(module: nn.Module) -> bool:
    own = type(module).__module__.startswith(("torch.nn.", "zfcuda.nn"))
    return own and not isinstance(module, nn.Sequential | nn.DataParallel)


def record(
    model: nn.Module, images: Tensor, kept: Collection[str] = (), stop: Stop | None = None
) -> Record:
    """The model's pass over ``images`` [n,C,H,W], which it may change.

    Args:
        kept: names of modules whose outputs are to be copied.
        stop: where to end, before the whole model has returned.

    Raises:
        Untraceable: it draws random numbers, looks at values, or changes what is not its own.
        Exception: the model's own.
    """
    recorder = _Recorder(model, images, kept, stop)
    found = recorder.record
    try:
        with contextlib.suppress(_Stopped), told(recorder), recorder:
            found.answer = model(images)
    except Exception:  # TorchScript makes errors of its own of others
        if recorder.refused:
            raise Untraceable(recorder.refused) from None
        raise
    if isinstance(found.answer, Tensor):
        found.output = recorder.slot(found.answer).value
    return found


def maker_of(module: nn.Module | None, known: Container[nn.Module], custom: str) -> Any:
    """What tells who makes a call: the model's own modules by identity, others by their class."""
    return (id(module) if module in known else type(module), custom)


@contextmanager
def told(recorder: Any) -> Iterator[None]:
    """While entered, the recorder is told which modules run in this thread, and which functions
    with a backward of their own."""
    thread, modules = threading.get_ident(), torch.nn.modules.module
    # Where apply ends up whenever and however it was looked up.
    functions = torch.autograd.function._SingleLevelFunction

    def applied(function: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or recorder.custom:
            return super(functions, function).apply(*args, **kwargs)
        recorder.custom = function.__name__
        try:
            result = super(functions, function).apply(*args, **kwargs)
            for tensor in result if isinstance(result, tuple) else (result,):
                recorder.own(tensor)
            return result
        finally:
            recorder.custom = ""

    def begin(module: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread:
            recorder.begin(module, args)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            recorder.end(module, args, output)

    handles = [
        modules.register_module_forward_pre_hook(begin),
        modules.register_module_forward_hook(end, always_call=True),
    ]

    def to_numpy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread and recorder.is_of_images(tensor):
            raise Untraceable("it looks at values outside of torch (numpy)")
        return torch._C.TensorBase.numpy(tensor, *args, **kwargs)

    def to_list(tensor: Tensor) -> Any:
        if threading.get_ident() == thread and recorder.is_of_images(tensor):
            raise Untraceable("it looks at values outside of torch (tolist)")
        return torch._C.TensorBase.tolist(tensor)

    functions.apply = classmethod(applied)
    torch.Tensor.numpy, torch.Tensor.tolist = to_numpy, to_list
    try:
        yield
    finally:
        del functions.apply
        del torch.Tensor.numpy, torch.Tensor.tolist
        for handle in handles:
            handle.remove()


# --- what is known of a function ------------------------------------------------------------------


@dataclass(frozen=True)
class _Spec:
    """Where a function's schema says that it writes, and what its results may view. (The noise of
    a randomised ReLU is written in training only, and that draws random numbers.)"""

    names: tuple[str, ...]
    usual: tuple[Any, ...]
    written: tuple[str, ...]
    views: bool

    def argument(self, args: Any, kwargs: Any) -> Callable[[str], Any]:
        def of(name: str) -> Any:
            place = self.names.index(name)
            return args[place] if place < len(args) else kwargs.get(name, self.usual[place])

        return of

    def viewed(self, given: list[Tensor]) -> Tensor | None:
        return given[0] if self.views and given else None


@cache
def _spec(func: Any) -> _Spec:
    arguments = func._schema.arguments
    return _Spec(
        tuple(a.name for a in arguments),
        tuple(a.default_value for a in arguments),
        tuple(
            a.name
            for a in arguments
            if a.alias_info is not None and a.alias_info.is_write and a.name != "noise"
        ),
        any(r.alias_info is not None for r in func._schema.returns),
    )


@cache
def sizes_of(function: Any) -> frozenset[int | str]:
    """Places and names of the arguments that are sizes, not axes or numbers to calculate with."""
    function = function.function if isinstance(function, _OnACopy) else function
    arguments = enumerate(function._schema.arguments)
    return frozenset(
        key
        for place, a in arguments
        if "int" in str(a.type) and not a.name.startswith(("dim", "axis"))
        for key in (place, a.name)
    )


def _refuse(func: Any, spec: _Spec, args: Any, kwargs: Any, of_images: bool) -> None:
    """Raise for what is not a function of the images, or cannot be repeated."""
    of = spec.argument(args, kwargs)

    def given(*names: str) -> list[Any]:
        return [of(name) for name in names if name in spec.names]

    if torch.Tag.nondeterministic_seeded in func.tags:
        off = [not v for v in given("training", "train", "dropout_p", "dropout", "p")]
        if not any(off):
            raise Untraceable("it draws random numbers")
    if of_images and {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {
        *func.tags
    }:
        masks = [t for t in tree_leaves(given("indices")) if isinstance(t, Tensor)]
        if not masks or any(t.dtype in (torch.bool, torch.uint8) for t in masks):
            raise Untraceable(f"its control flow depends on values ({func})")
    if any(given("training", "train")) and any(v is not None for v in given("running_mean")):
        raise Untraceable("a batch norm uses the batch's own statistics")


_SHAPED = (aten._unsafe_view.default, aten._reshape_alias.default, aten.reshape.default)
_COPIES = ("clone", "_to_copy", "lift_fresh", "lift_fresh_copy")


def _canonical(func: Any) -> Any:
    """One function for those that differ in how they use memory only."""
    return aten.view.default if func in _SHAPED else func


def _says_nothing(func: Any, given: Tensor, result: Tensor) -> bool:
    """Whether a call hands on the numbers that it gets, as they are."""
    packet = getattr(func, "overloadpacket", func)
    same = (
        given.shape == result.shape
        and given.dtype == result.dtype
        and given.device == result.device
    )
    if not same:
        return False
    return packet.__name__ in _COPIES


_OF_TRUTH = ("gt", "ge", "lt", "le", "eq", "ne", "logical_not", "logical_and", "logical_or")


@cache
def _functional(func: Any) -> Any:
    """The function that returns what ``func`` writes into its first argument; None without one."""
    name = func.overloadpacket.__name__
    namespace = getattr(torch.ops, func.namespace)
    if not name.endswith("_") or name.endswith("__") or name[:-1] in _OF_TRUTH:
        return None
    packet = getattr(namespace, name[:-1], None)
    overload = getattr(packet, func._overloadname, None) if packet is not None else None
    if overload is None:
        return None
    mine = [(a.name, str(a.type)) for a in func._schema.arguments]
    return overload if mine == [(a.name, str(a.type)) for a in overload._schema.arguments] else None


@dataclass(frozen=True)
class _OnACopy:
    """A function that writes into an argument, made to write into a copy of it."""

    function: Any
    argument: str

    @property
    def __name__(self) -> str:
        return self.function.overloadpacket.__name__.strip("_")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place = _spec(self.function).names.index(self.argument)
        if place < len(args):
            copied = args[place].clone()
            self.function(*args[:place], copied, *args[place + 1 :], **kwargs)
        else:
            copied = kwargs[self.argument].clone()
            self.function(*args, **{**kwargs, self.argument: copied})
        return copied


def _filled(step: _Step, below: Any, raw: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A view's arguments (the first is what it views)."""
    first = below if raw else Ref(below)
    return (first, *step.args[1:]), step.kwargs


def _scattered(step: _Step, below: Ref, above: Ref) -> tuple[Any, tuple[Any, ...]]:
    """The call that lays a changed view into what it was taken from."""
    name = getattr(step.function, "overloadpacket", step.function).__name__
    args = step.args[1:]
    dims = len(step.below)
    match name:
        case "slice":
            return aten.slice_scatter.default, (below, above, *args)
        case "select":
            return aten.select_scatter.default, (below, above, *args)
        case "diagonal":
            return aten.diagonal_scatter.default, (below, above, *args)
        case "split" | "split_with_sizes":
            dim = (args[1] if len(args) > 1 else 0) % dims
            sizes = args[0]
            if isinstance(sizes, int):
                start, stop = step.place * sizes, (step.place + 1) * sizes
            else:
                start = sum(sizes[: step.place])
                stop = start + sizes[step.place]
            return aten.slice_scatter.default, (below, above, dim, start, stop)
        case "unbind":
            dim = args[0] if args else 0
            return aten.select_scatter.default, (below, above, dim, step.place)
        case "permute":
            order = [d % dims for d in args[0]]
            return aten.permute.default, (above, [order.index(d) for d in range(dims)])
        case "transpose":
            return aten.transpose.int, (above, *args)
        case "t":
            return aten.t.default, (above,)
        case "view" | "unsqueeze" | "squeeze" | "detach" | "alias" | "flatten":
            return aten.view.default, (above, list(step.below))
    raise Untraceable(f"it changes a part of a tensor in place, seen through {name}")


def _same_numbers(
    tensor: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> bool:
    """Whether a tensor seen in these strides is the same numbers."""
    if tuple(size) != tuple(tensor.shape) or offset not in (None, tensor.storage_offset()):
        return False
    both = zip(size, stride, tensor.stride(), strict=True)
    return all(count == 1 or mine == its for count, mine, its in both)


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError) as error:
        raise Untraceable(f"it uses tensors of layout {tensor.layout}") from error


def _same_place(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors on one storage are the same numbers."""
    return a.dtype == b.dtype and _same_numbers(a, b.shape, b.stride(), b.storage_offset())
