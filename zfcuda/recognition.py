"""From a call that a model makes to its rule (:mod:`zfcuda.rules`), whatever it is spelled like.

A convolution may be a module or a function; a ReLU also a method, and in place; a sum an operator.
Every spelling comes down to one *reading* here: a function of the call's arguments, in
which values of the graph appear as :class:`Value`. A reading answers with the rule and the values
that it takes, or with None where the call is not of the kind after all.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.node import map_aggregate

import zfcuda.nn
from zfcuda.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Identity,
    Lrn,
    MaxPool,
    Pair,
    Pointwise,
    Rule,
    Shape,
)

__all__ = ["NotDeterministic", "Value", "filled", "module_kind", "read", "values_in"]


class NotDeterministic(Exception):
    """The call's result is not a function of one image."""


@dataclass(frozen=True, eq=False)
class Value:
    """A node's value, as an argument.

    Attributes:
        index: of the node.
        shape: per image; None for what is not a tensor.
        dtype, device: None for what is not a tensor.
        constant: what a value that depends on shapes only was on the traced images.
    """

    index: int
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    constant: Any = None

    @property
    def is_map(self) -> bool:
        return self.shape is not None and len(self.shape) == 3 and self.dtype.is_floating_point


def values_in(arguments: Any) -> list[Value]:
    """The values among a call's arguments, in order."""
    found: list[Value] = []
    map_aggregate(arguments, lambda a: found.append(a) if isinstance(a, Value) else None)
    return found


def filled(arguments: Any, value_of: Callable[[Value], Any]) -> Any:
    """A call's arguments with something in the place of every value."""
    return map_aggregate(arguments, lambda a: value_of(a) if isinstance(a, Value) else a)


Reading = tuple[Rule, tuple[Value, ...]]


def read(op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Reading | None:
    """The rule of a call and the values that it takes; None for a call that is opaque.

    Args:
        op: "call_module", "call_function" or "call_method".
        target: the module, the function or the method's name.

    Raises:
        NotDeterministic: it draws random numbers or uses the batch's own statistics.
    """
    if op == "call_module":
        reading = functools.partial(_MODULES.get(module_kind(target), _opaque), target)
    elif op == "call_method":
        reading = _METHODS.get(_without_underscore(target), _opaque)
    else:
        target = getattr(target, "overloadpacket", target)
        reading = _FUNCTIONS.get(target) or _WRAPPED.get(_wrapped_name(target), _opaque)
    if "out" in kwargs:
        return None
    try:
        inspect.signature(reading).bind(*args, **kwargs)
    except TypeError:  # another overload
        return None
    return reading(*args, **kwargs)


def module_kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn or zfcuda.nn whose forward the module runs; None for one of its own."""
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return None
    for kind in type(module).__mro__:
        if kind in _MODULES:
            same = getattr(type(module), "_conv_forward", None) is getattr(
                kind, "_conv_forward", None
            )
            return kind if same and type(module).forward is kind.forward else None
    return None


def _opaque(*args: Any, **kwargs: Any) -> None:
    return None


def _without_underscore(name: str) -> str:
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


# --- arguments ------------------------------------------------------------------------------------


def _is_map(x: Any) -> bool:
    return isinstance(x, Value) and x.is_map


def _known(x: Any) -> Any:
    """An argument with what depends on shapes put in (``kernel_size=x.shape[2:]``)."""
    if isinstance(x, Value):
        return x.constant
    return type(x)(map(_known, x)) if type(x) in (tuple, list, torch.Size) else x


def _pair(value: Any, default: Any = None) -> Pair | None:
    value = _known(value)
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        value = default
    both = (value, value) if isinstance(value, int) else value
    if not isinstance(both, Sequence) or isinstance(both, str) or len(both) not in (1, 2):
        return None
    if not all(isinstance(v, int) for v in both):
        return None
    return (int(both[0]), int(both[-1]))


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


# --- convolution and pooling ----------------------------------------------------------------------


def _conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Reading | None:
    fixed = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if not _is_map(input) or not fixed:
        return None
    stride, dilation = _pair(stride), _pair(dilation)
    if stride is None or dilation is None:
        return None
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):  # one more below than above
            return None
        padding = [t // 2 for t in total]
    padding = (0, 0) if padding == "valid" else _pair(padding)
    if padding is None:
        return None
    return Conv(weight, bias, stride, padding, dilation, groups), (input,)


def _conv_module(m: nn.Conv2d, input: Any) -> Reading | None:
    if m.padding_mode != "zeros":
        return None
    return _conv2d(input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def _max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
    relu: bool = False,
) -> Reading | None:
    kernel = _pair(kernel_size)
    window = (kernel, _pair(stride, kernel), _pair(padding), _pair(dilation))
    if not _is_map(input) or return_indices or None in window:
        return None
    return MaxPool(*window, bool(ceil_mode), relu), (input,)


def _max_pool_module(m: nn.MaxPool2d, input: Any) -> Reading | None:
    if getattr(m, "return_switches", False):
        return None
    window = (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)
    return _max_pool2d(input, *window, relu=getattr(m, "relu", False))


def _avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: int | None = None,
) -> Reading | None:
    kernel = _pair(kernel_size)
    window = (kernel, _pair(stride, kernel), _pair(padding))
    if not _is_map(input) or None in window:
        return None
    rule = AvgPool(*window, bool(ceil_mode), bool(count_include_pad), divisor_override)
    return rule, (input,)


def _avg_pool_module(m: nn.AvgPool2d, input: Any) -> Reading | None:
    return _avg_pool2d(
        input,
        m.kernel_size,
        m.stride,
        m.padding,
        m.ceil_mode,
        m.count_include_pad,
        m.divisor_override,
    )


def _adaptive_window(input: Any, output_size: Any) -> Pair | None:
    """The kernel, and stride, where an adaptive pool's windows are alike and do not overlap."""
    if not _is_map(input):
        return None
    wanted = _known(output_size)
    wanted = (wanted, wanted) if isinstance(wanted, int) or wanted is None else tuple(wanted)
    wanted = wanted * 2 if len(wanted) == 1 else wanted
    size = input.shape[1:]
    out = [have if want is None else want for have, want in zip(size, wanted, strict=True)]
    if any(o < 1 or have % o for have, o in zip(size, out, strict=True)):
        return None
    return (size[0] // out[0], size[1] // out[1])


def _adaptive_avg_pool2d(input: Any, output_size: Any) -> Reading | None:
    kernel = _adaptive_window(input, output_size)
    if kernel is None:
        return None
    if kernel == (1, 1):
        return Identity(), (input,)
    return AvgPool(kernel, kernel, (0, 0), False, True, None), (input,)


def _adaptive_max_pool2d(
    input: Any, output_size: Any, return_indices: bool = False
) -> Reading | None:
    kernel = _adaptive_window(input, output_size)
    if kernel is None or return_indices:
        return None
    if kernel == (1, 1):
        return Identity(), (input,)
    return MaxPool(kernel, kernel, (0, 0), (1, 1), False), (input,)


def _adaptive_max_module(m: nn.AdaptiveMaxPool2d, input: Any) -> Reading | None:
    return _adaptive_max_pool2d(input, m.output_size, m.return_indices)


def _over_the_map(input: Any, dim: Any, keepdim: bool) -> bool:
    """Whether a reduction over ``dim`` makes [n,C,1,1] of a map."""
    if not _is_map(input) or not keepdim or not isinstance(dim, tuple | list):
        return False
    return sorted(d % 4 for d in dim) == [2, 3]


def _mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if not _over_the_map(input, dim, keepdim) or dtype is not None:
        return None
    size = input.shape[1:]
    return AvgPool(size, size, (0, 0), False, True, None), (input,)


def _amax(input: Any, dim: Any = (), keepdim: bool = False) -> Reading | None:
    if not _over_the_map(input, dim, keepdim):
        return None
    size = input.shape[1:]
    return MaxPool(size, size, (0, 0), (1, 1), False), (input,)


# --- normalisation --------------------------------------------------------------------------------


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading | None:
    if training or running_mean is None:
        raise NotDeterministic("a batch norm uses the batch's own statistics")
    given = [v for v in (running_mean, running_var, weight, bias) if v is not None]
    if not _is_map(input) or not all(isinstance(v, Tensor) for v in given):
        return None
    # In double: the scale is rounded once, as torch's own is.
    scale = (running_var.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -running_mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    return Affine(scale.to(input.dtype), shift.to(input.dtype)), (input,)


def _batch_norm_module(m: nn.BatchNorm2d, input: Any) -> Reading | None:
    training = m.training or m.running_mean is None
    statistics = (m.running_mean, m.running_var)
    return _batch_norm(input, *statistics, m.weight, m.bias, training, 0.0, m.eps)


def _local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Reading | None:
    return (Lrn(size, alpha, beta, k), (input,)) if _is_map(input) else None


# --- element by element ---------------------------------------------------------------------------

# Functions of one map, and the names of their numbers (the same in torch's modules and functions).
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "relu": (),
    "relu6": (),
    "leaky_relu": ("negative_slope",),
    "hardtanh": ("min_val", "max_val"),
    "elu": ("alpha",),
    "celu": ("alpha",),
    "selu": (),
    "gelu": ("approximate",),
    "silu": (),
    "mish": (),
    "softplus": ("beta", "threshold"),
    "softsign": (),
    "hardswish": (),
    "hardsigmoid": (),
    "sigmoid": (),
    "logsigmoid": (),
    "tanh": (),
    "tanhshrink": (),
    "softshrink": ("lambd",),
    "hardshrink": ("lambd",),
    "threshold": ("threshold", "value"),
}
_ACTIVATION_MODULES: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.Hardtanh: "hardtanh",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "logsigmoid",
    nn.Tanh: "tanh",
    nn.Tanhshrink: "tanhshrink",
    nn.Softshrink: "softshrink",
    nn.Hardshrink: "hardshrink",
    nn.Threshold: "threshold",
}
# Others of one map without arguments, by their name in torch.
_UNARY = (
    "abs absolute neg negative exp exp2 expm1 log log10 log1p log2 sqrt rsqrt square reciprocal "
    "sin cos tan asin acos atan sinh cosh asinh acosh atanh arctan erf erfc sign sgn floor ceil "
    "round trunc frac positive nan_to_num sinc"
)


def _activation(name: str) -> Callable[..., Reading | None]:
    numbers = (*_ACTIVATIONS[name], "inplace")
    function = torch.relu if name == "relu" else getattr(F, name)

    def reading(input: Any, *args: Any, **kwargs: Any) -> Reading | None:
        given = dict(zip(numbers, args, strict=False)) | kwargs
        given.pop("inplace", None)
        if not _is_map(input) or len(args) > len(numbers) or not set(given) <= set(numbers):
            return None
        if any(isinstance(v, Value | Tensor) for v in given.values()):
            return None
        return Pointwise(name, functools.partial(function, **given) if given else function), (
            input,
        )

    return reading


def _activation_module(name: str) -> Callable[..., Reading | None]:
    reading = _activation(name)

    def of_module(m: nn.Module, input: Any) -> Reading | None:
        return reading(input, **{number: getattr(m, number) for number in _ACTIVATIONS[name]})

    return of_module


def _unary(name: str) -> Callable[..., Reading | None]:
    function = getattr(torch, name)
    return lambda input: (Pointwise(name, function), (input,)) if _is_map(input) else None


def _clamp(input: Any, min: Any = None, max: Any = None) -> Reading | None:
    if not _is_map(input) or any(v is not None and not _is_number(v) for v in (min, max)):
        return None
    if min == 0 and max is None:
        return Pointwise("relu", torch.relu), (input,)
    return Pointwise("clamp", functools.partial(torch.clamp, min=min, max=max)), (input,)


def _power(input: Any, exponent: Any) -> Reading | None:
    if not _is_map(input) or not _is_number(exponent):
        return None
    return Pointwise("pow", functools.partial(torch.pow, exponent=exponent)), (input,)


def _prelu(input: Any, weight: Any) -> Reading | None:
    if not _is_map(input) or not isinstance(weight, Tensor):
        return None
    return Pointwise("prelu", lambda x: F.prelu(x, weight)), (input,)


def _rrelu(
    input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace=False
) -> Reading | None:
    if training:
        raise NotDeterministic("rrelu draws random numbers")
    function = functools.partial(F.leaky_relu, negative_slope=(lower + upper) / 2)
    return (Pointwise("rrelu", function), (input,)) if _is_map(input) else None


# --- two maps, or a map and a number or parameter -------------------------------------------------


def _scaled(function: Callable[..., Tensor], alpha: Any) -> Callable[..., Tensor]:
    return function if alpha == 1 else functools.partial(function, alpha=alpha)


def _two_maps(name: str, function: Callable[..., Tensor], a: Any, b: Any) -> Reading | None:
    """Of one shape and dtype: nothing is broadcast."""
    if not (_is_map(a) and _is_map(b)) or a.shape != b.shape or a.dtype != b.dtype:
        return None
    return Binary(name, function), (a, b)


def _per_channel(x: Value, other: Any) -> Tensor | None:
    """A number or a parameter [C,1,1] as it acts on the map: [C]."""
    channels = x.shape[0]
    if _is_number(other):
        return torch.full((channels,), float(other), dtype=torch.float64, device=x.device)
    if not isinstance(other, Tensor) or other.dim() > 4 or other.is_complex():
        return None
    shape = (1,) * (4 - other.dim()) + tuple(other.shape)
    if shape not in ((1, 1, 1, 1), (1, channels, 1, 1)):
        return None
    if other.dim() and other.dtype != x.dtype:  # might give another dtype
        return None
    return other.detach().reshape(-1).expand(channels).double()


def _affine(x: Value, scale: Tensor | float, shift: Tensor | float) -> Reading:
    scale, shift = (
        torch.as_tensor(v, device=x.device).to(x.dtype).expand(x.shape[0]).contiguous()
        for v in (scale, shift)
    )
    return Affine(scale, shift), (x,)


def _add(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    both = _two_maps("add", _scaled(torch.add, alpha), input, other)
    if both or alpha != 1:
        return both
    x, other = (input, other) if _is_map(input) else (other, input)
    shift = _per_channel(x, other) if _is_map(x) else None
    return None if shift is None else _affine(x, 1.0, shift)


def _sub(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    both = _two_maps("sub", _scaled(torch.sub, alpha), input, other)
    if both or alpha != 1:
        return both
    if _is_map(input):
        shift = _per_channel(input, other)
        return None if shift is None else _affine(input, 1.0, -shift)
    shift = _per_channel(other, input) if _is_map(other) else None
    return None if shift is None else _affine(other, -1.0, shift)


def _rsub(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    return _sub(other, input, alpha=alpha)


def _mul(input: Any, other: Any) -> Reading | None:
    both = _two_maps("mul", torch.mul, input, other)
    if both:
        return both
    x, other = (input, other) if _is_map(input) else (other, input)
    scale = _per_channel(x, other) if _is_map(x) else None
    return None if scale is None else _affine(x, scale, 0.0)


def _div(input: Any, other: Any, *, rounding_mode: Any = None) -> Reading | None:
    if rounding_mode is not None:
        return None
    both = _two_maps("div", torch.div, input, other)
    if both:
        return both
    if _is_map(input):
        scale = _per_channel(input, other)
        return None if scale is None else _affine(input, 1.0 / scale, 0.0)
    if _is_map(other) and _is_number(input):
        return Pointwise("rdiv", functools.partial(torch.div, input)), (other,)
    return None


def _maximum(input: Any, other: Any) -> Reading | None:
    return _two_maps("maximum", torch.maximum, input, other)


def _minimum(input: Any, other: Any) -> Reading | None:
    return _two_maps("minimum", torch.minimum, input, other)


def _cat(tensors: Any, dim: Any = 0) -> Reading | None:
    maps = isinstance(tensors, tuple | list) and len(tensors) > 0 and all(map(_is_map, tensors))
    if not maps or dim not in (1, -3) or len({x.dtype for x in tensors}) > 1:
        return None
    return Concat(), tuple(tensors)


# --- nothing at all, or nothing but shapes --------------------------------------------------------


def _dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Reading | None:
    if training and p > 0:
        raise NotDeterministic("dropout that is on draws random numbers")
    return (Identity(), (input,)) if isinstance(input, Value) else None


def _torch_dropout(input: Any, p: float, train: bool) -> Reading | None:
    return _dropout(input, p, train)


def _dropout_module(m: nn.Module, input: Any) -> Reading | None:
    return _dropout(input, m.p, m.training)


def _stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Reading | None:
    return _dropout(input, p, training)


def _identity(input: Any) -> Reading | None:
    return (Identity(), (input,)) if isinstance(input, Value) else None


def _identity_module(m: nn.Module, input: Any) -> Reading | None:
    return _identity(input)


def _same_if_same_dtype(input: Any, *args: Any, **kwargs: Any) -> Reading | None:
    """``x.to(...)``; the graph checks that the result is of the same dtype and device."""
    if any(isinstance(v, Value) and v.shape is not None for v in (*args, *kwargs.values())):
        return None
    return _identity(input)


def _only_shapes(*args: Any, **kwargs: Any) -> Reading:
    return Shape(), tuple(v for v in (*args, *kwargs.values()) if isinstance(v, Value))


def _getattr(input: Any, name: str) -> Reading | None:
    shapes = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")
    return _only_shapes(input) if name in shapes else None


def _wrapped_name(function: Any) -> str | None:
    """The name of a function of torchvision that it keeps torch.fx out of."""
    module = getattr(function, "__module__", None) or ""
    return getattr(function, "__name__", None) if module.startswith("torchvision.") else None


# --- every spelling -------------------------------------------------------------------------------

# By name in torch, torch.nn.functional and of a tensor's method, with or without underscore.
_NAMED: dict[str, Callable[..., Reading | None]] = {
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "adaptive_max_pool2d": _adaptive_max_pool2d,
    "mean": _mean,
    "amax": _amax,
    "local_response_norm": _local_response_norm,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": lambda input, min: _clamp(input, min),
    "clamp_max": lambda input, max: _clamp(input, None, max),
    "pow": _power,
    "float_power": _opaque,  # always gives float64
    "prelu": _prelu,
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "multiply": _mul,
    "div": _div,
    "divide": _div,
    "true_divide": lambda input, other: _div(input, other),
    "maximum": _maximum,
    "fmax": lambda input, other: _two_maps("fmax", torch.fmax, input, other),
    "minimum": _minimum,
    "fmin": lambda input, other: _two_maps("fmin", torch.fmin, input, other),
    "cat": _cat,
    "concat": _cat,
    "concatenate": _cat,
    "clone": lambda input, *, memory_format=None: _identity(input),
    "contiguous": lambda input, *, memory_format=None: _identity(input),
    "detach": _identity,
    **{name: _activation(name) for name in _ACTIVATIONS},
    **{name: _unary(name) for name in _UNARY.split()},
}
_METHODS: dict[str, Callable[..., Reading | None]] = {
    **_NAMED,
    **dict.fromkeys(("to", "type", "float", "double", "half", "bfloat16"), _same_if_same_dtype),
    **dict.fromkeys(("cpu", "cuda", "requires_grad_"), _same_if_same_dtype),
    **dict.fromkeys(("size", "dim", "ndimension", "numel", "nelement"), _only_shapes),
    **dict.fromkeys(("is_floating_point", "is_contiguous", "get_device"), _only_shapes),
    "is_complex": _only_shapes,
}
_FUNCTIONS: dict[Any, Callable[..., Reading | None]] = {
    getattr(owner, spelled): reading
    for name, reading in _NAMED.items()
    for spelled in (name, name + "_")
    for owner in (torch, F, Tensor)
    if hasattr(owner, spelled)
} | {
    operator.add: _add,
    operator.iadd: _add,
    operator.sub: _sub,
    operator.isub: _sub,
    operator.mul: _mul,
    operator.imul: _mul,
    operator.truediv: _div,
    operator.itruediv: _div,
    operator.pow: _power,
    operator.ipow: _power,
    operator.neg: _unary("neg"),
    operator.abs: _unary("abs"),
    F.batch_norm: _batch_norm,
    F.rrelu: _rrelu,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
    F.alpha_dropout: _dropout,
    F.feature_alpha_dropout: _dropout,
    torch.dropout: _torch_dropout,
    torch.feature_dropout: _torch_dropout,
    torch.alpha_dropout: _torch_dropout,
    torch.numel: _only_shapes,
    torch.is_floating_point: _only_shapes,
    torch.is_complex: _only_shapes,
    getattr: _getattr,
}
_MODULES: dict[type[nn.Module], Callable[..., Reading | None]] = {
    nn.Conv2d: _conv_module,
    nn.MaxPool2d: _max_pool_module,
    zfcuda.nn.MaxPool2d: _max_pool_module,
    nn.AvgPool2d: _avg_pool_module,
    nn.AdaptiveAvgPool2d: lambda m, input: _adaptive_avg_pool2d(input, m.output_size),
    nn.AdaptiveMaxPool2d: _adaptive_max_module,
    nn.BatchNorm2d: _batch_norm_module,
    nn.SyncBatchNorm: _batch_norm_module,
    nn.LocalResponseNorm: lambda m, input: _local_response_norm(
        input, m.size, m.alpha, m.beta, m.k
    ),
    zfcuda.nn.LocalResponseNorm: lambda m, input: _local_response_norm(
        input, m.size, m.alpha, m.beta, m.k
    ),
    nn.PReLU: lambda m, input: _prelu(input, m.weight),
    nn.RReLU: lambda m, input: _rrelu(input, m.lower, m.upper, m.training),
    nn.Identity: _identity_module,
    nn.Dropout: _dropout_module,
    nn.Dropout2d: _dropout_module,
    nn.AlphaDropout: _dropout_module,
    nn.FeatureAlphaDropout: _dropout_module,
    **{kind: _activation_module(name) for kind, name in _ACTIVATION_MODULES.items()},
}
_WRAPPED = {"stochastic_depth": _stochastic_depth}
