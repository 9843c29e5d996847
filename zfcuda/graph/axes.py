"""Which of a value's axes are images, channels, rows and columns, by the rules of the calls.

A map [n,C,h,w] has the axes (n, C, h, w). Each call of this registry says which axes its result
has: a permutation moves them, a view joins and splits them, a linear layer turns channels into
others. Images, rows and columns are never split, cut, summed over or mixed here: a call that would
do so, or that is not in the registry, has no rule, and its result no known axes. A chain of calls
from maps to maps that is followed by these rules therefore treats every pixel alone.

An axis is a tuple of factors, slowest first: "n", "h", "w", or an int, that many channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.nodes import Node, Sized, Value

Factor = str | int
Axes = tuple[tuple[Factor, ...], ...]
Sizes = dict[str, int]  # of n, h and w

Given = Axes | Tensor | Any  # an argument: of a value its axes
AxesRule = Callable[..., Axes | None]

_RULES: dict[str, AxesRule] = {}
_OPEN = 2**62  # ends of slices from here on mean "to the end"


def axes_of_maps(channels: int) -> Axes:
    """Of [n,C,h,w]."""
    return (("n",), (channels,) if channels != 1 else (), ("h",), ("w",))


def size_of(axis: tuple[Factor, ...], sizes: Sizes) -> int:
    return math.prod(sizes[f] if isinstance(f, str) else f for f in axis)


def result_axes(node: Node, axes: Callable[[Value], Axes | None], sizes: Sizes) -> Axes | None:
    """The axes of a call's result; None where no rule knows them.

    Args:
        axes: of the values that the call takes.
        sizes: of the images, rows and columns in the pass in which shapes were taken.
    """
    rule = _RULES.get(node.target, _pointwise if is_one_by_one(node) else None)
    if rule is None:
        return None
    given = [axes(a) if isinstance(a, Value) else a for a in node.args]
    if any(a is None and isinstance(v, Value) for a, v in zip(given, node.args, strict=True)):
        return None
    lists = [[axes(v) for v in a] for a in node.args if _holds_values(a)]
    if any(a is None for part in lists for a in part):
        return None
    given = [
        [axes(v) if isinstance(v, Value) else v for v in a] if _holds_values(a) else a
        for a in given
    ]
    try:
        found = rule(node, sizes, *given, **node.kwargs)
    except (TypeError, IndexError, ValueError, AttributeError):  # another overload
        return None
    return None if found is None else tuple(map(_joined, found))


def _joined(axis: tuple[Factor, ...]) -> tuple[Factor, ...]:
    """With neighbouring channels as one factor: which of them is which does not matter."""
    joined: list[Factor] = []
    for factor in axis:
        if joined and isinstance(factor, int) and isinstance(joined[-1], int):
            joined[-1] *= factor
        elif factor != 1:
            joined.append(factor)
    return tuple(joined)


def _holds_values(argument: Any) -> bool:
    return isinstance(argument, list | tuple) and any(isinstance(v, Value) for v in argument)


def is_one_by_one(call: Node) -> bool:
    """Whether a call treats each number by itself, or with those that lie in the same place."""
    tagged = torch.Tag.pointwise in getattr(call.function, "tags", ())
    return tagged or _RULES.get(call.target) in (_pointwise, _index_put)


def rule(*names: str) -> Callable[[AxesRule], AxesRule]:
    """Enter a rule for the calls of these names."""

    def enter(function: AxesRule) -> AxesRule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"there is a rule for {name!r} already")
            _RULES[name] = function
        return function

    return enter


def channels_in(axis: tuple[Factor, ...]) -> bool:
    """Whether an axis holds channels only."""
    return all(isinstance(f, int) for f in axis)


def _is_axes(given: Any) -> bool:
    return isinstance(given, tuple) and all(isinstance(axis, tuple) for axis in given)


def _replaced(axes: Axes, dim: int, axis: tuple[Factor, ...]) -> Axes:
    dim %= len(axes)
    return (*axes[:dim], axis, *axes[dim + 1 :])


def _without(axes: Axes, dims: Sequence[int]) -> Axes:
    gone = {d % len(axes) for d in dims}
    return tuple(axis for d, axis in enumerate(axes) if d not in gone)


# --- numbers by themselves ------------------------------------------------------------------------


@rule(
    "hardswish", "_prelu_kernel", "_to_copy", "detach", "nan_to_num", "log_sigmoid_forward",
    "zeros_like", "ones_like", "full_like", "heaviside", "where", "masked_fill",
)  # fmt: skip
def _pointwise(node: Node, sizes: Sizes, *given: Given, **_: Any) -> Axes | None:
    """Each number by itself, or with those that lie in the same place."""
    values = [a for a in given if _is_axes(a) and a]
    tensors = [a for a in given if isinstance(a, Tensor) and a.dim()]
    if not values:
        return None
    depth = max([*map(len, values), *(t.dim() for t in tensors)])
    joined: list[tuple[Factor, ...]] = []
    for place in range(-depth, 0):
        own = [v[place] for v in values if len(v) >= -place and v[place]]
        if any(axis != own[0] for axis in own):
            return None
        axis = own[0] if own else ()
        for tensor in tensors:
            size = tensor.shape[place] if tensor.dim() >= -place else 1
            if size == 1:
                continue
            if not channels_in(axis) or (axis and size_of(axis, sizes) != size):
                return None
            axis = axis or (size,)
        joined.append(axis)
    return tuple(joined)


@rule("index_put")
def _index_put(node: Node, sizes: Sizes, x: Axes, indices: Any, value: Any, *_: Any) -> Axes | None:
    """``x[mask] = value``, where the mask is as large as ``x``."""
    masks = len(indices) == 1 and indices[0] == x
    return x if masks and isinstance(value, Tensor) and value.numel() == 1 else None


# --- where numbers are ----------------------------------------------------------------------------


@rule("view")
def _view(node: Node, sizes: Sizes, x: Axes, shape: Sequence[Any]) -> Axes | None:
    if 1 in (sizes["h"], sizes["w"]):  # where they are in a view does not show then
        return None
    wanted = [size.of(sizes["n"]) if isinstance(size, Sized) else size for size in shape]
    factors = [f for axis in x for f in axis]
    found: list[tuple[Factor, ...]] = []
    for size in wanted:
        axis: list[Factor] = []
        while size > 1 or (factors and size == 1 and _size(factors[0], sizes) == 1):
            if not factors:
                return None
            own = _size(factors[0], sizes)
            if own == 1 or size % own == 0:
                axis.append(factors.pop(0))
                size //= own
            elif isinstance(factors[0], int) and own % size == 0:
                factors[0] = own // size
                axis.append(size)
                size = 1
            else:
                return None
        found.append(tuple(axis))
    if factors:
        return None
    return tuple(found)


def _size(factor: Factor, sizes: Sizes) -> int:
    return sizes[factor] if isinstance(factor, str) else factor


@rule("permute")
def _permute(node: Node, sizes: Sizes, x: Axes, dims: Sequence[int]) -> Axes:
    return tuple(x[d] for d in dims)


@rule("transpose")
def _transpose(node: Node, sizes: Sizes, x: Axes, a: int, b: int) -> Axes:
    order = list(x)
    order[a], order[b] = order[b], order[a]
    return tuple(order)


@rule("t")
def _t(node: Node, sizes: Sizes, x: Axes) -> Axes:
    return tuple(reversed(x))


@rule("unsqueeze")
def _unsqueeze(node: Node, sizes: Sizes, x: Axes, dim: int) -> Axes:
    dim %= len(x) + 1
    return (*x[:dim], (), *x[dim:])


@rule("squeeze")
def _squeeze(node: Node, sizes: Sizes, x: Axes, dim: Any = None) -> Axes | None:
    if dim is None:
        return None
    dims = [d % len(x) for d in ([dim] if isinstance(dim, int) else dim)]
    if any(not channels_in(x[d]) for d in dims):
        return None
    return _without(x, [d for d in dims if size_of(x[d], sizes) == 1])


@rule("expand")
def _expand(
    node: Node, sizes: Sizes, x: Axes, shape: Sequence[Any], implicit: bool = False
) -> Axes | None:
    padded = (*((),) * (len(shape) - len(x)), *x)
    found = []
    for axis, size in zip(padded, shape, strict=True):
        if axis or size in (-1, 1):
            found.append(axis)
        elif isinstance(size, Sized):  # as often as there are images, which are all alike
            return None
        else:
            found.append((size,))
    return tuple(found)


@rule("slice")
def _slice(
    node: Node,
    sizes: Sizes,
    x: Axes,
    dim: int = 0,
    start: Any = None,
    stop: Any = None,
    step: int = 1,
) -> Axes | None:
    axis = x[dim]
    if (start or 0) == 0 and (stop is None or stop >= _OPEN) and step == 1:
        return x
    if not channels_in(axis) or any(isinstance(v, Sized) for v in (start, stop)):
        return None
    count = len(range(size_of(axis, sizes))[slice(start, stop, step)])
    return _replaced(x, dim, (count,))


@rule("select")
def _select(node: Node, sizes: Sizes, x: Axes, dim: int, index: Any) -> Axes | None:
    return _without(x, [dim]) if channels_in(x[dim]) else None


@rule("split", "split_with_sizes", "unbind", "chunk")
def _split(node: Node, sizes: Sizes, x: Axes, *more: Any, dim: int | None = None) -> Axes | None:
    place = node.function.place
    if node.target == "unbind":
        dim = (more[0] if more else 0) if dim is None else dim
        return _without(x, [dim]) if channels_in(x[dim]) else None
    parts = more[0]
    dim = (more[1] if len(more) > 1 else 0) if dim is None else dim
    if not channels_in(x[dim]) or isinstance(parts, Sized):
        return None
    whole = size_of(x[dim], sizes)
    count = min(parts, whole - place * parts) if isinstance(parts, int) else parts[place]
    return _replaced(x, dim, (count,))


@rule("cat")
def _cat(node: Node, sizes: Sizes, given: Sequence[Given], dim: int = 0) -> Axes | None:
    if not all(_is_axes(a) for a in given):
        return None
    first = given[0]
    dim %= len(first)
    if any(len(a) != len(first) or not channels_in(a[dim]) for a in given):
        return None
    if any(_without(a, [dim]) != _without(first, [dim]) for a in given):
        return None
    return _replaced(first, dim, (sum(size_of(a[dim], sizes) for a in given),))


@rule("stack")
def _stack(node: Node, sizes: Sizes, given: Sequence[Given], dim: int = 0) -> Axes | None:
    if not all(_is_axes(a) for a in given) or any(a != given[0] for a in given):
        return None
    first = given[0]
    dim %= len(first) + 1
    return (*first[:dim], (len(given),), *first[dim:])


@rule("roll")
def _rolled(
    node: Node, sizes: Sizes, x: Axes, shifts: Any, dims: Sequence[int] = ()
) -> Axes | None:
    return _flipped(node, sizes, x, dims)


@rule("flip")
def _flipped(node: Node, sizes: Sizes, x: Axes, dims: Sequence[int]) -> Axes | None:
    return x if dims and all(channels_in(x[d]) for d in dims) else None


@rule("index")
def _index(node: Node, sizes: Sizes, x: Axes, indices: Sequence[Any]) -> Axes | None:
    told = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(told) != 1:
        return None
    ((dim, index),) = told
    if (
        not isinstance(index, Tensor)
        or index.dim() != 1
        or index.dtype in (torch.bool, torch.uint8)
    ):
        return None
    return _replaced(x, dim, (len(index),)) if channels_in(x[dim]) else None


@rule("index_select")
def _index_select(node: Node, sizes: Sizes, x: Axes, dim: int, index: Any) -> Axes | None:
    if not isinstance(index, Tensor) or not channels_in(x[dim]):
        return None
    return _replaced(x, dim, (index.numel(),))


@rule("channel_shuffle", "native_channel_shuffle")
def _shuffled(node: Node, sizes: Sizes, x: Axes, groups: int) -> Axes | None:
    return x if channels_in(x[1]) and not channels_in(x[0]) else None


@rule("constant_pad_nd")
def _padded(node: Node, sizes: Sizes, x: Axes, pad: Sequence[int], value: Any = 0) -> Axes | None:
    for at in range(len(pad) // 2):
        before, after = pad[2 * at], pad[2 * at + 1]
        if before or after:
            dim = -1 - at
            if not channels_in(x[dim]):
                return None
            x = _replaced(x, dim, (size_of(x[dim], sizes) + before + after,))
    return x


# --- numbers of one pixel together ----------------------------------------------------------------


@rule("_softmax", "_log_softmax", "cumsum", "cumprod", "softmax", "log_softmax", "sort")
def _along(node: Node, sizes: Sizes, x: Axes, dim: int = -1, *_: Any, **__: Any) -> Axes | None:
    return x if isinstance(dim, int) and channels_in(x[dim]) else None


@rule("glu")
def _gated(node: Node, sizes: Sizes, x: Axes, dim: int = -1) -> Axes | None:
    return _replaced(x, dim, (size_of(x[dim], sizes) // 2,)) if channels_in(x[dim]) else None


@rule("topk")
def _largest(
    node: Node, sizes: Sizes, x: Axes, count: Any, dim: int = -1, *_: Any, **__: Any
) -> Axes | None:
    return _replaced(x, dim, (count,)) if channels_in(x[dim]) and type(count) is int else None


@rule(
    "sum", "mean", "var", "std", "amax", "amin", "linalg_vector_norm", "logsumexp", "norm", "prod",
    "max", "min", "argmax", "argmin", "median", "all", "any",
)  # fmt: skip
def _reduced(
    node: Node, sizes: Sizes, x: Axes, *more: Any, keepdim: bool = False, dim: Any = None, **_: Any
) -> Axes | None:
    if node.target in ("linalg_vector_norm", "norm"):
        more = more[1:]
    if dim is None:
        dim = more[0] if more else None
        more = more[1:]
    if node.target in ("var", "std") and more and not isinstance(more[0], bool):
        more = more[1:]
    keepdim = bool(more[0]) if more and isinstance(more[0], bool) else keepdim
    if dim is None or dim == [] or isinstance(dim, bool):
        return None
    dims = [dim] if isinstance(dim, int) else list(dim)
    if not all(channels_in(x[d]) for d in dims):
        return None
    if not keepdim:
        return _without(x, dims)
    for d in dims:
        x = _replaced(x, d, ())
    return x


@rule("native_layer_norm")
def _layer_norm(
    node: Node, sizes: Sizes, x: Axes, normalised: Sequence[int], *_: Any
) -> Axes | None:
    last = x[len(x) - len(normalised) :]
    return x if node.function.place == 0 and all(map(channels_in, last)) else None


@rule("linear", "mm", "addmm")
def _linear(node: Node, sizes: Sizes, *given: Given) -> Axes | None:
    x = next((a for a in given if _is_axes(a)), None)
    weights = getattr(node.function, "weight", None)
    if weights is None or x is None or not channels_in(x[-1]) or sum(map(_is_axes, given)) != 1:
        return None
    return _replaced(x, -1, (weights.shape[0],))


@rule("bmm")
def _bmm(node: Node, sizes: Sizes, a: Given, b: Given = None) -> Axes | None:
    if b is None:  # with weights that are the same for all
        rows, dim = node.function.weight.shape[0], node.function.axis
        return _replaced(a, dim, (rows,)) if channels_in(a[dim]) else None
    if _is_axes(a) and isinstance(b, Tensor):
        if channels_in(a[0]) and channels_in(a[2]):
            return (a[0], a[1], (b.shape[2],))
    elif _is_axes(b) and isinstance(a, Tensor) and channels_in(b[0]) and channels_in(b[1]):
        return (b[0], (a.shape[1],), b[2])
    return None
