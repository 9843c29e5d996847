"""What a call of ATen does to maps: its rule, and the values that it takes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.calls import Call
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Sized, Value
from zfcuda.graph.pixelwise import Linear
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    GlobalPool,
    Identity,
    Lrn,
    MaxPool,
    Opaque,
    Pair,
    Pointwise,
    Rule,
    TransposedConv,
)

Reading = tuple[Rule, tuple[Value, ...]] | tuple[Rule, tuple[Value, ...], Callable[..., Any]]
Reader = Callable[..., Reading | None]

_READERS: dict[str, Reader] = {}
_signature = functools.cache(inspect.signature)


def read(
    call: Call, place: int, args: tuple[Any, ...], kwargs: dict[str, Any], result: Value
) -> Reading | None:
    """The rule of a call and the values that it takes; where the call is better made in another
    way, how; None for a call that has none.

    Args:
        place: which of the call's results is read.
        args, kwargs: with the values in them.
        result: the value that it makes.

    Raises:
        Untraceable: it uses the batch's own statistics.
    """
    reader = _READERS.get(call.name)
    found = None
    if reader is not None and place == 0:
        try:
            _signature(reader).bind(*args, **kwargs)
        except TypeError:  # another overload
            return None
        try:
            found = reader(*args, **kwargs)
        except Untraceable as error:
            raise Untraceable(f"{error}{call.place}") from None
    elif place == 0:
        found = _one_by_one(call, args, kwargs)
    return found if found is None or _holds(found[0], found[1][0], result) else None


def reader(*names: str) -> Callable[[Reader], Reader]:
    """Enter how calls of these names are read."""

    def enter(function: Reader) -> Reader:
        for name in names:
            if name in _READERS:
                raise ValueError(f"calls of {name!r} are read already")
            _READERS[name] = function
        return function

    return enter


def _holds(rule: Rule, first: Value, result: Value) -> bool:
    """Whether the result can be what the rule promises."""
    alike = result.dtype == first.dtype and result.device == first.device
    if isinstance(rule, Opaque):
        return True
    if isinstance(rule, Identity | Affine | Pointwise | Lrn):
        return alike and result.shape == first.shape
    if isinstance(rule, GlobalPool) and not rule.keepdim:
        return alike and result.shape == first.shape[:1]
    return alike and result.is_map


def is_map(x: Any) -> bool:
    return isinstance(x, Value) and x.is_map


def _pair(value: Sequence[int], default: Sequence[int] = ()) -> Pair | None:
    value = list(value) or list(default)
    if len(value) not in (1, 2) or any(isinstance(v, Sized) for v in value):
        return None
    return (int(value[0]), int(value[-1]))


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


# --- windows --------------------------------------------------------------------------------------


@reader("convolution")
def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Reading | None:  # fmt: skip
    fixed = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if not is_map(x) or not fixed or weight.dim() != 4:
        return None
    before, after = (_pair(stride), _pair(padding)), (_pair(dilation), groups)
    if transposed:
        rule = TransposedConv(weight, bias, *before, _pair(output_padding), *after)
    else:
        rule = Conv(weight, bias, *before, *after)
    return rule, (x,)


@reader("_convolution")
def _scripted_convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *_: Any,
) -> Reading | None:  # fmt: skip
    return _convolution(
        x, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    )


@reader("max_pool2d_with_indices")
def _max_pool2d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,),
    ceil_mode: bool = False,
) -> Reading | None:  # fmt: skip
    window = (_pair(kernel), _pair(stride, kernel), _pair(padding), _pair(dilation))
    return (MaxPool(*window, bool(ceil_mode)), (x,)) if is_map(x) else None


def _our_max_pool2d(
    x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, relu: bool
) -> Reading | None:
    window = (_pair(kernel), _pair(stride, kernel), _pair(padding), _pair(dilation))
    return (MaxPool(*window, bool(ceil_mode), relu), (x,)) if is_map(x) else None


_READERS["max_pool2d"] = _our_max_pool2d


@reader("avg_pool2d")
def _avg_pool2d(
    x: Any, kernel: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False,
    count_include_pad: bool = True, divisor: int | None = None,
) -> Reading | None:  # fmt: skip
    window = (_pair(kernel), _pair(stride, kernel), _pair(padding))
    if not is_map(x):
        return None
    if window[0] == x.shape[1:] and window[2] == (0, 0) and divisor is None:
        return _averaged(x, window[0])
    return AvgPool(*window, bool(ceil_mode), bool(count_include_pad), divisor), (x,)


def _even_windows(x: Any, wanted: Sequence[int]) -> Pair | None:
    """The kernel, and stride, where an adaptive pool's windows are alike and do not overlap."""
    if not is_map(x):
        return None
    out = _pair(wanted)
    size = x.shape[1:]
    if out is None or any(o < 1 or have % o for have, o in zip(size, out, strict=True)):
        return None
    return (size[0] // out[0], size[1] // out[1])


@reader("_adaptive_avg_pool2d")
def _adaptive_avg_pool2d(x: Any, size: Any) -> Reading | None:
    return _averaged(x, _even_windows(x, size))


def _averaged(x: Any, kernel: Pair | None) -> Reading | None:
    if kernel is None:
        return None
    if kernel == (1, 1):
        return Identity(), (x,)
    if kernel == x.shape[1:]:
        return GlobalPool("mean", kernel, True), (x,)
    return AvgPool(kernel, kernel, (0, 0), False, True, None), (x,)


@reader("adaptive_max_pool2d")
def _adaptive_max_pool2d(x: Any, size: Any) -> Reading | None:
    return _greatest(x, _even_windows(x, size))


def _greatest(x: Any, kernel: Pair | None) -> Reading | None:
    if kernel is None:
        return None
    if kernel == (1, 1):
        return Identity(), (x,)
    return MaxPool(kernel, kernel, (0, 0), (1, 1), False), (x,)


def _over_the_map(reduce: str, x: Any, dims: Any, keepdim: bool) -> Reading | None:
    """A reduction over ``dims``, where it makes one number of each map."""
    if not is_map(x) or not isinstance(dims, tuple | list):
        return None
    if sorted(d % 4 for d in dims) != [2, 3]:
        return None
    if keepdim and (reduce == "max" or x.shape[1:] == (1, 1)):
        return _greatest(x, x.shape[1:])
    return GlobalPool(reduce, x.shape[1:], bool(keepdim)), (x,)


@reader("mean")
def _mean(x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Reading | None:
    return _over_the_map("mean", x, dims, keepdim)


@reader("sum")
def _sum(x: Any, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Reading | None:
    return _over_the_map("sum", x, dims, keepdim)


@reader("amax")
def _amax(x: Any, dims: Any = (), keepdim: bool = False) -> Reading | None:
    return _over_the_map("max", x, dims, keepdim)


@reader("amin")
def _amin(x: Any, dims: Any = (), keepdim: bool = False) -> Reading | None:
    return _over_the_map("min", x, dims, keepdim)


@reader("logsumexp")
def _logsumexp(x: Any, dims: Any, keepdim: bool = False) -> Reading | None:
    return _over_the_map("logsumexp", x, dims, keepdim)


# --- normalisation --------------------------------------------------------------------------------


@reader("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")
def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float,
    eps: float,
) -> Reading | None:  # fmt: skip
    if training and isinstance(x, Value) and x.sizes[0] == Sized(0, 1):
        raise Untraceable("a batch norm uses the batch's own statistics")
    given = [v for v in (mean, variance, weight, bias) if v is not None]
    if training or not is_map(x) or not all(isinstance(v, Tensor) for v in given):
        return None
    return affine_of(x, weight, bias, mean, variance, eps), (x,)


def affine_of(
    x: Value,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> Affine:
    """A normalisation of the map ``x`` by fixed statistics, all [C]."""
    # In double: the scale is rounded once, as torch's own is.
    scale = (variance.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    return Affine(scale.to(x.dtype), shift.to(x.dtype))


@reader("_native_batch_norm_legit_no_training")
def _batch_norm_in_eval(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, eps: float
) -> Reading | None:
    return _batch_norm(x, weight, bias, mean, variance, False, momentum, eps)


@reader("local_response_norm")
def _local_response_norm(x: Any, size: int, alpha: float, beta: float, k: float) -> Reading | None:
    return (Lrn(size, alpha, beta, k), (x,)) if is_map(x) else None


# --- several maps ---------------------------------------------------------------------------------


@reader("cat")
def _cat(tensors: Any, dim: int = 0) -> Reading | None:
    if not all(map(is_map, tensors)) or dim % 4 != 1:
        return None
    dtypes = {x.dtype for x in tensors}
    return (Concat(), tuple(tensors)) if len(dtypes) == 1 else None


def _scaled(function: Callable[..., Tensor], alpha: Any) -> Callable[..., Tensor]:
    return function if alpha == 1 else functools.partial(function, alpha=alpha)


def two_maps(name: str, function: Callable[..., Tensor], a: Any, b: Any) -> Reading | None:
    """Of one size and dtype; one may have a single channel for all of the other's."""
    if not (is_map(a) and is_map(b)) or a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        return None
    if a.shape != b.shape and 1 not in (a.shape[0], b.shape[0]):
        return None
    return Binary(name, function), (a, b)


def _per_channel(x: Any, other: Any) -> Tensor | None:
    """A number or a parameter [C,1,1] as it acts on the map ``x``: [C]; None for anything else."""
    if not is_map(x):
        return None
    channels = x.shape[0]
    if is_number(other):
        return torch.full((channels,), float(other), dtype=torch.float64, device=x.device)
    if not isinstance(other, Tensor) or other.dim() > 4 or other.is_complex():
        return None
    shape = (1,) * (4 - other.dim()) + tuple(other.shape)
    if shape not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    if other.dim() and other.dtype != x.dtype:  # might give another dtype
        return None
    return other.detach().reshape(-1).expand(channels).double()


def _affine(x: Value, scale: Tensor | float, shift: Tensor | float) -> Reading | None:
    wide = [torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in (scale, shift)]
    given = [v.to(x.dtype).expand(x.shape[0]).contiguous() for v in wide]
    tolerance = torch.finfo(x.dtype).eps
    if not all(
        torch.allclose(a.double(), b, tolerance, 0) for a, b in zip(given, wide, strict=True)
    ):
        return None  # too large or too small for the maps' numbers
    return Affine(*given), (x,)


@reader("add")
def _add(a: Any, b: Any, positional: Any = 1, *, alpha: Any = 1) -> Reading | None:
    alpha = alpha if positional == 1 else positional
    both = two_maps("add", _scaled(torch.add, alpha), a, b)
    if both is not None:
        return both
    x, other, times = (a, b, alpha) if is_map(a) else (b, a, 1)
    shift = _per_channel(x, other)
    if shift is None:
        return None
    return _affine(x, 1.0 if x is a else float(alpha), shift * times)


@reader("sub")
def _sub(a: Any, b: Any, positional: Any = 1, *, alpha: Any = 1) -> Reading | None:
    alpha = alpha if positional == 1 else positional
    both = two_maps("sub", _scaled(torch.sub, alpha), a, b)
    if both is not None:
        return both
    if is_map(a):
        shift = _per_channel(a, b)
        return None if shift is None else _affine(a, 1.0, -shift * alpha)
    shift = _per_channel(b, a)
    return None if shift is None else _affine(b, -float(alpha), shift)


@reader("rsub")
def _rsub(a: Any, b: Any, positional: Any = 1, *, alpha: Any = 1) -> Reading | None:
    return _sub(b, a, positional, alpha=alpha)


@reader("mul")
def _mul(a: Any, b: Any) -> Reading | None:
    both = two_maps("mul", torch.mul, a, b)
    if both is not None:
        return both
    x, other = (a, b) if is_map(a) else (b, a)
    scale = _per_channel(x, other)
    return None if scale is None else _affine(x, scale, 0.0)


@reader("div")
def _div(a: Any, b: Any, *, rounding_mode: Any = None) -> Reading | None:
    if rounding_mode is not None:
        return None
    both = two_maps("div", torch.div, a, b)
    if both is not None:
        return both
    scale = _per_channel(a, b)
    return None if scale is None else _affine(a, 1.0 / scale, 0.0)


# --- each number by itself ------------------------------------------------------------------------

_MAY_RECTIFY = ("maximum", "minimum", "fmax", "fmin", "clamp", "clamp_min", "where", "heaviside")


def _one_by_one(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reading | None:
    """Any other call that ATen says treats each number by itself."""
    if torch.Tag.pointwise not in getattr(call.function, "tags", ()) or call.several:
        return None
    maps = [a for a in args if isinstance(a, Value)]
    if len(maps) == 2 and len(args) == 2 and not kwargs:
        return two_maps(call.name, call.function, *maps)
    if len(maps) != 1 or not is_map(maps[0]):
        return None
    others = [a for a in (*args, *kwargs.values()) if a is not maps[0]]
    if any(isinstance(a, Value | Sized | list | tuple | dict) for a in others):
        return None
    tensors = [a for a in others if isinstance(a, Tensor)]
    if tensors and call.name in _MAY_RECTIFY:  # told by what several calls do together
        return None
    if any(_per_channel(maps[0], t.to(maps[0].dtype)) is None for t in tensors):
        return None
    place = next(i for i, a in enumerate(args) if a is maps[0])
    function = _OfOne(call.function, args[:place], args[place + 1 :], kwargs)
    simple = function.function if not others else function
    return Pointwise(call.name, simple), (maps[0],)


class _OfOne:
    """A function of several arguments as one of a map."""

    def __init__(self, function: Any, before: Any, after: Any, named: dict[str, Any]) -> None:
        self.function, self._before, self._after, self._named = function, before, after, named

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(*self._before, x, *self._after, **self._named)


# --- vectors --------------------------------------------------------------------------------------


@reader("addmm")
def _addmm(bias: Any, x: Any, weight: Any, *, beta: Any = 1, alpha: Any = 1) -> Reading | None:
    fixed = isinstance(bias, Tensor) and isinstance(weight, Tensor) and bias.dim() == 1
    if not fixed or not isinstance(x, Value) or (beta, alpha) != (1, 1):
        return None
    return Opaque(), (x,), Linear(weight.t(), bias)


@reader("mm")
def _mm(x: Any, weight: Any) -> Reading | None:
    if not isinstance(x, Value) or not isinstance(weight, Tensor):
        return None
    return Opaque(), (x,), Linear(weight.t(), None)


@reader("detach")
def _detach(x: Any) -> Reading | None:
    return (Identity(), (x,)) if isinstance(x, Value) else None
