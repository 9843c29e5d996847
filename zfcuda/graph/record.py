"""A model's own pass as the ATen calls that it makes.

What Python did to arrive at a call does not matter: control flow on shapes is taken as it comes,
modules, functions, methods and TorchScript make the same calls. A recorded value is a *version* of
a tensor: a call that works in place makes a new one, also of everything that shares its memory.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from zfcuda.graph.calls import (
    Call,
    Event,
    Made,
    Record,
    Recorded,
    Ref,
    Returned,
    Stop,
    tensors_in,
    with_tensors,
)
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.schemas import (
    OnACopy,
    Place,
    Spec,
    View,
    bare,
    canonical,
    fails_by_shape,
    filled_view,
    functional,
    place_of,
    plainly,
    put_back,
    refuse_call,
    runs_in_order,
    same_numbers,
    same_place,
    says_nothing,
    spec_of,
    storage_of,
)
from zfcuda.graph.watching import Watched, maker_of, told
from zfcuda.inference.interception import author_of

aten = torch.ops.aten

# Calls that make another view of a tensor in its own place, and those that return it.
_TURNS = {
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.detach_.default: aten.detach.default,
}


@dataclass(eq=False)
class _Slot:
    """A tensor during the recording.

    Attributes:
        tensor: while it lives; a recording keeps none, or a model's values would all be there at
            once.
        place: where in its memory it lies.
        value: its version, as of ``seen``.
        root: the tensor whose memory it views; itself for one with memory of its own.
        views: from the root to it.
        changes: of a root, how often its memory was written.
        constant: whether it was there before.
        bare: of one that no call returned, as the events have it.
    """

    tensor: weakref.ref[Tensor]
    value: int
    place: Place
    root: _Slot | None = None
    views: tuple[View, ...] = ()
    seen: int = 0
    changes: int = 0
    constant: bool = False
    bare: Tensor | None = None


class _Recorder(TorchDispatchMode):
    supports_higher_order_operators = True  # to be told of them, and say which it is

    def __init__(
        self, model: nn.Module, images: Tensor, kept: Collection[str], stop: Stop | None
    ) -> None:
        super().__init__()
        self.record = Record()
        self._kept = kept
        self._stop = stop
        self.watched = Watched()
        self._made = {id(images): (weakref.ref(images), Made(-1, 0))}  # by identity, while it lives
        self._latest: Any = None  # held, or torch would detach no new tensor
        self._slots: dict[int, _Slot] = {}
        self._memory: dict[int, _Slot] = {}  # by storage, its root
        self._storages: list[StorageWeakRef] = []  # none of their addresses is given to another
        self._own = {
            storage_of(t)
            for t in (*model.parameters(), *model.buffers())
            if t.layout is torch.strided
        }
        self._modules: list[tuple[nn.Module, int]] = []  # those that run, and the calls before them
        self._names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(module, []).append(name)
        self._authors = {own: author_of(own, names[0]) for own, names in self._names.items()}
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
        slot = _Slot(weakref.ref(tensor), value, place_of(tensor), constant=constant)
        slot.root = slot
        self._slots[id(tensor)] = slot
        if self._memory.setdefault(storage_of(tensor), slot) is slot:
            self._storages.append(StorageWeakRef(tensor.untyped_storage()))
        return slot

    def _slot_of(self, tensor: Tensor) -> _Slot | None:
        """The tensor's, as it is; None for one that is not known, or is another by ``.data =``, of
        which torch tells no call."""
        slot = self._slots.get(id(tensor))
        if slot is None or slot.tensor() is not tensor or not same_place(slot.place, tensor):
            return None
        return slot

    def slot(self, tensor: Tensor) -> _Slot:
        """The tensor's, with the value that it has by now."""
        slot = self._slot_of(tensor)
        if slot is None:
            known = self._memory.get(storage_of(tensor))
            if known is None or known.constant:
                return self._new(tensor, None, 0, of_images=False)
            if not same_place(known.place, tensor):
                raise Untraceable("it looks at a value's memory in a way that torch does not tell")
            # As .data does, which hands no gradient on.
            unseen = View(aten.detach.default, (None,), {}, None, tuple(tensor.shape))
            value = self._viewed(unseen, known.value)
            place = place_of(tensor)
            slot = _Slot(weakref.ref(tensor), value, place, known, (unseen,), known.changes)
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
            # Not itself: it holds this frame, and the caller's tensors.
            self.refuse(str(error))

    def refuse(self, reason: str) -> NoReturn:
        """Raise an Untraceable that says where, and remember that: the model may catch it."""
        within = self._within()
        self.watched.refused = f"{reason}, in {within!r}" if within else reason
        raise Untraceable(self.watched.refused) from None

    def _followed(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The call's result, noted."""
        if isinstance(func, HigherOrderOperator):
            raise Untraceable(f"it calls {func.name()}, which takes functions")
        spec = spec_of(func)
        given = tensors_in(args, kwargs)
        slots = [self.slot(tensor) for tensor in given]
        of_images = any(self.record.values[slot.value].of_images for slot in slots)
        refuse_call(func, spec, args, kwargs, of_images)
        refs = with_tensors(self.ref, args, kwargs)
        changed = [t for t in map(spec.argument(args, kwargs), spec.written) if t is not None]
        for tensor in changed:
            if not isinstance(tensor, Tensor):
                raise Untraceable(f"{plainly(func)} changes several tensors at once")
            if storage_of(tensor) in self._own:
                raise Untraceable("its forward changes its own parameters or buffers")
            if self._slots[id(tensor)].root.constant:
                raise Untraceable(f"{plainly(func)} changes a tensor that it has not made")
        strides = func in (aten.as_strided.default, aten.as_strided_.default)
        unmoved = strides and same_numbers(*args)
        if strides and of_images and not unmoved and not runs_in_order(*args):
            raise Untraceable(f"{plainly(func)} looks at other memory than the tensor's own")
        told = with_tensors(self._told, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except Exception as error:  # which the model may catch
            self._note_failure(func, (args, kwargs), told, error)
            raise
        self._latest = result
        self._note(func, told, given, result, of_images)
        if unmoved:  # the same, said in other strides
            func = aten.view.default
        if unmoved and changed:
            return result
        if torch.Tag.inplace_view in func.tags:
            self._turned(func, refs, result, of_images)
        elif changed:
            self._changed(func, spec, refs, changed, of_images)
        else:
            self._returned(func, spec, refs, given, result, of_images)
        return result

    def _told(self, tensor: Tensor) -> Made | Tensor:
        made, slot = self._which(tensor), self._slots[id(tensor)]
        if made is None and slot.bare is None:
            slot.bare = bare(tensor)
        return slot.bare if made is None else made

    def _which(self, tensor: Tensor) -> Made | None:
        reference, made = self._made.get(id(tensor), (None, None))
        return made if reference is not None and reference() is tensor else None

    def _note(
        self, func: Any, told: Any, given: list[Tensor], result: Any, of_images: bool
    ) -> None:
        """Note the call as it was made."""
        several = isinstance(result, tuple | list)
        found = list(result) if several else [result]
        number = len(self.record.events)
        plain = all(isinstance(t, Tensor) for t in found)
        same = next((i for i, t in enumerate(given) if t is result), None)
        views = not plain or any(storage_of(t) in self._memory for t in found)
        outputs = None
        if of_images and same is None and not views:
            outputs = tuple((t.shape, t.stride(), t.dtype, t.device) for t in found)
        elif of_images and same == 0 and torch.Tag.inplace_view not in func.tags:
            outputs = ()
        changes = 0 if outputs == () else None
        kind = (() if isinstance(result, tuple) else []) if several else None
        self.record.events.append(Event(func, told, outputs, changes, kind, self._maker()))
        for place, tensor in enumerate(found):
            if isinstance(tensor, Tensor) and self._which(tensor) is None:
                self._made[id(tensor)] = (weakref.ref(tensor), Made(number, place))

    def _note_failure(self, func: Any, given: Any, told: Any, error: Exception) -> None:
        """Note a call that raised an error."""
        if "not implemented" not in str(error) and not fails_by_shape(func, *given):
            raise Untraceable(f"its control flow depends on values ({plainly(func)})") from error
        self.record.events.append(Event(func, told, None, None, None, self._maker(), fails=True))

    def _maker(self) -> Any:
        module = self._modules[-1][0] if self._modules else None
        return maker_of(module, self._names, self.watched)

    def _call(self, function: Any, args: Any, kwargs: Any, several: bool) -> int:
        """The number of a new call."""
        calls = self.record.calls
        custom = self.watched.custom
        author = self._author() or custom
        custom = custom or ("no_grad" if self.watched.cut else "")
        within = self._within()
        calls.append(
            Call(function, tuple(args), dict(kwargs), several, None, author, custom, within)
        )
        return len(calls) - 1

    def _within(self) -> str:
        """The innermost of the model's modules that run."""
        running = (self._names[m][0] for m, _ in reversed(self._modules) if m in self._names)
        return next(running, "")

    def _author(self) -> str:
        known = (self._authors.get(module, "") for module, _ in reversed(self._modules))
        return next(filter(None, known), "")

    def _returned(
        self,
        func: Any,
        spec: Spec,
        refs: Any,
        given: list[Tensor],
        result: Any,
        of_images: bool,
    ) -> None:
        """Note what a call returned that changes nothing."""
        if canonical(func) is aten.view.default:  # however its sizes were given
            refs = ((refs[0][0], list(result.shape)), {})
        several = isinstance(result, tuple | list)
        found = list(result) if several else [result]
        first = given[0] if given else None
        of_new = (
            func is aten.detach.default and not of_images
        )  # functions that make tensors call it
        if isinstance(result, Tensor) and (of_new or says_nothing(func, first, result)):
            value = self.slot(first).value
            if self.watched.cut:  # another value as far as gradients go
                call = self._call(aten.alias.default, (Ref(value),), {}, False)
                value = self._value(result, call, 0, self.record.values[value].of_images)
            if self._slot_of(result) is None:
                self._alike(result, first, value)
            return
        call = None
        for place, tensor in enumerate(found):
            if not isinstance(tensor, Tensor) or self._slot_of(tensor) is not None:
                continue
            if call is None:
                call = self._call(canonical(func), *refs, several)
            root = self._memory.get(storage_of(tensor)) if tensor.numel() else None
            of = spec.viewed(given) if root is not None else None
            value = self._value(tensor, call, place, of_images)
            if root is None or of is None or root.constant:
                self._owner(tensor, value, root is not None and root.constant)
                continue
            below = self._slots[id(of)]
            step = View(canonical(func), *refs, place if several else None, tuple(of.shape))
            self._slots[id(tensor)] = _Slot(
                weakref.ref(tensor),
                value,
                place_of(tensor),
                below.root,
                (*below.views, step),
                below.root.changes,
            )

    def _alike(self, tensor: Tensor, other: Tensor, value: int) -> None:
        """Another tensor of the same numbers; perhaps in the same memory."""
        root = self._memory.get(storage_of(tensor))
        below = self._slots[id(other)]
        if root is None or not tensor.numel():
            self._owner(tensor, value)
        elif same_place(place_of(other), tensor):
            self._slots[id(tensor)] = _Slot(
                weakref.ref(tensor), value, place_of(tensor), below.root, below.views, below.seen
            )
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

    def detached(self, tensor: Tensor) -> None:
        """Note that a tensor was detached where it is, of which torch tells no call."""
        slot = self.slot(tensor)
        call = self._call(aten.detach.default, (Ref(slot.value),), {}, False)
        slot.value = self._value(tensor, call, 0, self.record.values[slot.value].of_images)
        if slot.root is slot:
            slot.changes += 1
            slot.seen = slot.changes

    # --- changes in place -------------------------------------------------------------------------

    def _changed(
        self,
        func: Any,
        spec: Spec,
        refs: Any,
        changed: list[Tensor],
        of_images: bool,
    ) -> None:
        if len(changed) > 1:
            raise Untraceable(f"{plainly(func)} changes several tensors at once")
        (tensor,) = changed
        slot = self._slots[id(tensor)]
        if not same_place(slot.place, tensor):  # an out= of another size
            if 0 not in slot.place.size or slot.views:
                raise Untraceable(f"{plainly(func)} resizes a tensor")
            slot.place = place_of(tensor)
        function = functional(func) or OnACopy(func, spec.written[0])
        call = self._call(function, *refs, several=False)
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

    def _turned(self, func: Any, refs: Any, tensor: Tensor, of_images: bool) -> None:
        """Note that a tensor is another view of its memory from now on."""
        function = _TURNS.get(func)
        if function is None:
            raise Untraceable(f"{plainly(func)} gives a tensor another place in memory")
        slot = self._slots[id(tensor)]
        step = View(function, *refs, None, self.record.values[slot.value].shape)
        value = self._value(tensor, self._call(function, *refs, several=False), 0, of_images)
        self._slots[id(tensor)] = _Slot(
            weakref.ref(tensor),
            value,
            place_of(tensor),
            slot.root,
            (*slot.views, step),
            slot.root.changes,
        )

    def _viewed(self, step: View, below: int) -> int:
        """The view of a new version of what was viewed."""
        args, kwargs = filled_view(step, below)
        several = step.place is not None
        call = self._call(step.function, args, kwargs, several)
        dtype = self.record.values[below].dtype
        with _disable_current_modes():
            shaped = torch.empty(step.below, dtype=dtype, device="meta")
            found = step.function(*filled_view(step, shaped, raw=True)[0], **kwargs)
        found = found[step.place] if several else found
        values, old = self.record.values, self.record.values[below]
        shape, place = tuple(found.shape), step.place or 0
        values.append(Recorded(call, place, shape, found.dtype, old.device, old.of_images))
        return len(values) - 1

    def _put_back(self, step: View, below: int, above: int) -> int:
        """What was viewed, with the view changed."""
        function, args = put_back(step, Ref(below), Ref(above))
        call = self._call(function, args, {}, several=False)
        values, old = self.record.values, self.record.values[below]
        of_images = values[above].of_images or old.of_images
        values.append(Recorded(call, 0, tuple(step.below), old.dtype, old.device, of_images))
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
        if isinstance(output, Tensor) and names and not is_functorch_wrapped_tensor(output):
            value, count = self.slot(output).value, len(self.record.calls)
            copy = _copy(output) if {*names} & {*self._kept} else None
            self.record.returned.append(Returned(names, value, count, copy))
            if self._stop is not None and self._stop.name in names:
                times = sum(self._stop.name in done.names for done in self.record.returned)
                if times == self._stop.times:
                    raise _Stopped


def _copy(tensor: Tensor) -> Tensor:
    """Unknown to the recording."""
    with _disable_current_modes():
        return tensor.clone()


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
        if recorder.watched.refused:
            raise Untraceable(recorder.watched.refused) from None
        raise
    if recorder.watched.refused:  # the model has caught what only a recording raises
        raise Untraceable(recorder.watched.refused)
    if isinstance(found.answer, Tensor):
        found.output = recorder.slot(found.answer).value
    return found
