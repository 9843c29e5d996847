"""What is known of a function of ATen: what it writes, what its results view, which arguments are
sizes, and how a change seen through a view gets into what is viewed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from zfcuda.graph.calls import Ref
from zfcuda.graph.guards import Untraceable

aten = torch.ops.aten

_LOOKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # at values
_DOUBTFUL = {torch.Tag.nondeterministic_seeded, *_LOOKS}


@dataclass(frozen=True)
class Spec:
    """Where a function's schema says that it writes, what its results may view, and whether it may
    be a call to refuse. (The noise of a randomised ReLU is written in training only, and that draws
    random numbers.)"""

    names: tuple[str, ...]
    usual: tuple[Any, ...]
    written: tuple[str, ...]
    views: bool
    doubtful: bool

    def argument(self, args: Any, kwargs: Any) -> Callable[[str], Any]:
        def of(name: str) -> Any:
            place = self.names.index(name)
            return args[place] if place < len(args) else kwargs.get(name, self.usual[place])

        return of

    def viewed(self, given: list[Tensor]) -> Tensor | None:
        return given[0] if self.views and given else None


@cache
def spec_of(func: Any) -> Spec:
    arguments = func._schema.arguments
    names = tuple(a.name for a in arguments)
    return Spec(
        names,
        tuple(a.default_value for a in arguments),
        tuple(
            a.name
            for a in arguments
            if a.alias_info is not None and a.alias_info.is_write and a.name != "noise"
        ),
        any(r.alias_info is not None for r in func._schema.returns),
        bool({torch.Tag.nondeterministic_seeded, *_LOOKS} & {*func.tags})
        or "running_mean" in names,
    )


@cache
def sizes_of(function: Any) -> frozenset[int | str]:
    """Places and names of the arguments that are sizes, not axes or numbers to calculate with."""
    function = function.function if isinstance(function, OnACopy) else function
    arguments = enumerate(function._schema.arguments)
    return frozenset(
        key
        for place, a in arguments
        if "int" in str(a.type) and not a.name.startswith(("dim", "axis", "stride"))
        for key in (place, a.name)
    )


def refuse_call(func: Any, spec: Spec, args: Any, kwargs: Any, of_images: bool) -> None:
    """Raise for what is not a function of the images, or cannot be repeated."""
    if not spec.doubtful:
        return
    of = spec.argument(args, kwargs)

    def given(*names: str) -> list[Any]:
        return [of(name) for name in names if name in spec.names]

    if torch.Tag.nondeterministic_seeded in func.tags:
        off = [not v for v in given("training", "train", "dropout_p", "dropout", "p")]
        if not any(off):
            raise Untraceable("it draws random numbers")
    if of_images and _LOOKS & {*func.tags}:
        masks = [t for t in tree_leaves(given("indices")) if isinstance(t, Tensor)]
        if not masks or any(t.dtype in (torch.bool, torch.uint8) for t in masks):
            raise Untraceable(f"its control flow depends on values ({plainly(func)})")
    if any(given("training", "train")) and any(v is not None for v in given("running_mean")):
        raise Untraceable("a batch norm uses the batch's own statistics")


def plainly(func: Any) -> str:
    """What torch's users know a function by."""
    name = getattr(getattr(func, "overloadpacket", func), "__name__", str(func))
    return _PLAINLY.get(name, name.strip("_"))


_PLAINLY = {
    "_local_scalar_dense": "a condition or .item()",
    "index": "a mask as index",
    "equal": "torch.equal",
    "_linalg_check_errors": "an error of torch.linalg",
}


def fails_by_shape(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call fails for tensors like these whatever their values are."""
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
    try:
        func(*args, **kwargs)
    except Exception:
        return True
    return False


_SHAPED = (aten._unsafe_view.default, aten._reshape_alias.default, aten.reshape.default)


_COPIES = ("clone", "_to_copy", "lift_fresh", "lift_fresh_copy")


def canonical(func: Any) -> Any:
    """One function for those that differ in how they use memory only."""
    return aten.view.default if func in _SHAPED else func


def says_nothing(func: Any, given: Tensor | None, result: Tensor) -> bool:
    """Whether a call hands on the numbers that it gets, as they are."""
    packet = getattr(func, "overloadpacket", func)
    same = (
        given is not None
        and given.shape == result.shape
        and given.dtype == result.dtype
        and given.device == result.device
    )
    if not same:
        return False
    return packet.__name__ in _COPIES


_OF_TRUTH = ("gt", "ge", "lt", "le", "eq", "ne", "logical_not", "logical_and", "logical_or")


@cache
def functional(func: Any) -> Any:
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
class OnACopy:
    """A function that writes into an argument, made to write into a copy of it."""

    function: Any
    argument: str

    @property
    def __name__(self) -> str:
        return self.function.overloadpacket.__name__.strip("_")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        place = spec_of(self.function).names.index(self.argument)
        if place < len(args):
            copied = args[place].clone()
            self.function(*args[:place], copied, *args[place + 1 :], **kwargs)
        else:
            copied = kwargs[self.argument].clone()
            self.function(*args, **{**kwargs, self.argument: copied})
        return copied


class View(NamedTuple):
    """A call that gave a view."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | None  # which of several results
    below: tuple[int, ...]  # shape of what was viewed


def filled_view(
    step: View, below: Any, raw: bool = False
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A view's arguments (the first is what it views)."""
    first = below if raw else Ref(below)
    return (first, *step.args[1:]), step.kwargs


def put_back(step: View, below: Ref, above: Ref) -> tuple[Any, tuple[Any, ...]]:
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


def same_numbers(
    tensor: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> bool:
    """Whether a tensor seen in these strides is the same numbers."""
    if tuple(size) != tuple(tensor.shape) or offset not in (None, tensor.storage_offset()):
        return False
    both = zip(size, stride, tensor.stride(), strict=True)
    return all(count == 1 or mine == its for count, mine, its in both)


def runs_in_order(
    tensor: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> bool:
    """Whether these strides run over a tensor's own numbers, and these lie one after another."""
    steps = zip(size, stride, strict=True)
    last = (offset or 0) + sum((count - 1) * step for count, step in steps)
    return tensor.is_contiguous() and tensor.storage_offset() == 0 and last < tensor.numel()


def storage_of(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError) as error:
        kind = "torch.func's" if tensor.layout is torch.strided else f"layout {tensor.layout}"
        raise Untraceable(f"it uses tensors of {kind}") from error


def bare(tensor: Tensor) -> Tensor:
    """The same memory without what its owner hangs on it: attributes, hooks, a history. Each may
    hold the model, which lives no longer for being traced."""
    return tensor.detach() if type(tensor) in (Tensor, nn.Parameter) else tensor


class Place(NamedTuple):
    """Where a tensor lies in memory."""

    storage: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def place_of(tensor: Tensor) -> Place:
    return Place(
        storage_of(tensor),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.storage_offset(),
    )


def same_place(place: Place, tensor: Tensor) -> bool:
    """Whether a tensor is the numbers that lie there."""
    mine = place_of(tensor)
    if mine == place:  # as a rule
        return True
    return mine[:2] == place[:2] and same_numbers(tensor, *place[2:])
