"""Arithmetic of two maps, or of a map and a number or a parameter per channel."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.graph.nodes import Affine, Binary, Pointwise, Value
from zfcuda.graph.recognition.spellings import (
    NotDeterministic,
    Reader,
    Reading,
    Spellings,
    is_map,
    is_number,
)


def _scaled(function: Callable[..., Tensor], alpha: Any) -> Callable[..., Tensor]:
    return function if alpha == 1 else functools.partial(function, alpha=alpha)


def _two_maps(name: str, function: Callable[..., Tensor], a: Any, b: Any) -> Reading | None:
    """Of one shape and dtype: nothing is broadcast."""
    if not (is_map(a) and is_map(b)) or a.shape != b.shape or a.dtype != b.dtype:
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


def _affine(x: Value, scale: Tensor | float, shift: Tensor | float) -> Reading:
    scale, shift = (
        torch.as_tensor(v, device=x.device).to(x.dtype).expand(x.shape[0]).contiguous()
        for v in (scale, shift)
    )
    return Affine(scale, shift), (x,)


def _add(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    if not is_number(alpha):
        return None
    both = _two_maps("add", _scaled(torch.add, alpha), input, other)
    if both or alpha != 1:
        return both
    x, other = (input, other) if is_map(input) else (other, input)
    shift = _per_channel(x, other)
    return None if shift is None else _affine(x, 1.0, shift)


def _sub(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    if not is_number(alpha):
        return None
    both = _two_maps("sub", _scaled(torch.sub, alpha), input, other)
    if both or alpha != 1:
        return both
    if is_map(input):
        shift = _per_channel(input, other)
        return None if shift is None else _affine(input, 1.0, -shift)
    shift = _per_channel(other, input)
    return None if shift is None else _affine(other, -1.0, shift)


def _rsub(input: Any, other: Any, *, alpha: Any = 1) -> Reading | None:
    return _sub(other, input, alpha=alpha)


def _mul(input: Any, other: Any) -> Reading | None:
    both = _two_maps("mul", torch.mul, input, other)
    if both:
        return both
    x, other = (input, other) if is_map(input) else (other, input)
    scale = _per_channel(x, other)
    return None if scale is None else _affine(x, scale, 0.0)


def _div(input: Any, other: Any, *, rounding_mode: Any = None) -> Reading | None:
    if rounding_mode is not None:
        return None
    both = _two_maps("div", torch.div, input, other)
    if both:
        return both
    if is_map(input):
        scale = _per_channel(input, other)
        return None if scale is None else _affine(input, 1.0 / scale, 0.0)
    if is_map(other) and is_number(input):
        return Pointwise("rdiv", functools.partial(torch.div, input)), (other,)
    return None


def _of_two(name: str) -> Reader:
    function = getattr(torch, name)
    return lambda input, other: _two_maps(name, function, input, other)


ARITHMETIC = Spellings(
    named={
        "add": _add,
        "sub": _sub,
        "subtract": _sub,
        "rsub": _rsub,
        "mul": _mul,
        "multiply": _mul,
        "div": _div,
        "divide": _div,
        "true_divide": lambda input, other: _div(input, other),
        "maximum": _of_two("maximum"),
        "fmax": _of_two("fmax"),
        "minimum": _of_two("minimum"),
        "fmin": _of_two("fmin"),
    },
    functions={
        operator.add: _add,
        operator.iadd: _add,
        operator.sub: _sub,
        operator.isub: _sub,
        operator.mul: _mul,
        operator.imul: _mul,
        operator.truediv: _div,
        operator.itruediv: _div,
    },
)


# Activations by their function's name: their module, and what its and the function's numbers are
# called.
_ACTIVATIONS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "elu": (nn.ELU, ("alpha",)),
    "celu": (nn.CELU, ("alpha",)),
    "selu": (nn.SELU, ()),
    "gelu": (nn.GELU, ("approximate",)),
    "silu": (nn.SiLU, ()),
    "mish": (nn.Mish, ()),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "softsign": (nn.Softsign, ()),
    "hardswish": (nn.Hardswish, ()),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "logsigmoid": (nn.LogSigmoid, ()),
    "tanh": (nn.Tanh, ()),
    "tanhshrink": (nn.Tanhshrink, ()),
    "softshrink": (nn.Softshrink, ("lambd",)),
    "hardshrink": (nn.Hardshrink, ("lambd",)),
    "threshold": (nn.Threshold, ("threshold", "value")),
}
# Others of one map without arguments, by their name in torch.
_UNARY = (
    "abs absolute neg negative exp exp2 expm1 log log10 log1p log2 sqrt rsqrt square reciprocal "
    "sin cos tan asin acos atan sinh cosh asinh acosh atanh arctan erf erfc sign sgn floor ceil "
    "round trunc frac positive nan_to_num sinc"
)


def _activation(name: str) -> Reader:
    numbers = (*_ACTIVATIONS[name][1], "inplace")
    function = torch.relu if name == "relu" else getattr(F, name)

    def read(input: Any, *args: Any, **kwargs: Any) -> Reading | None:
        given = dict(zip(numbers, args, strict=False)) | kwargs
        given.pop("inplace", None)
        if not is_map(input) or len(args) > len(numbers) or not set(given) <= set(numbers):
            return None
        if any(isinstance(v, Value | Tensor) for v in given.values()):
            return None
        chosen = functools.partial(function, **given) if given else function
        return Pointwise(name, chosen), (input,)

    return read


def _activation_module(name: str) -> Reader:
    read, (_, numbers) = _activation(name), _ACTIVATIONS[name]
    return lambda m, input: read(input, **{number: getattr(m, number) for number in numbers})


def _unary(name: str) -> Reader:
    function = getattr(torch, name)
    return lambda input: (Pointwise(name, function), (input,)) if is_map(input) else None


def _clamp(input: Any, min: Any = None, max: Any = None) -> Reading | None:
    if not is_map(input) or any(v is not None and not is_number(v) for v in (min, max)):
        return None
    if min == 0 and max is None:
        return Pointwise("relu", torch.relu), (input,)
    return Pointwise("clamp", functools.partial(torch.clamp, min=min, max=max)), (input,)


def _power(input: Any, exponent: Any) -> Reading | None:
    if not is_map(input) or not is_number(exponent):
        return None
    return Pointwise("pow", functools.partial(torch.pow, exponent=exponent)), (input,)


def _prelu(input: Any, weight: Any) -> Reading | None:
    if not is_map(input) or not isinstance(weight, Tensor):
        return None
    return Pointwise("prelu", lambda x: F.prelu(x, weight)), (input,)


def _rrelu(
    input: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Reading | None:
    if training:
        raise NotDeterministic("rrelu draws random numbers")
    function = functools.partial(F.leaky_relu, negative_slope=(lower + upper) / 2)
    return (Pointwise("rrelu", function), (input,)) if is_map(input) else None


POINTWISE = Spellings(
    named={
        "clamp": _clamp,
        "clip": _clamp,
        "clamp_min": lambda input, min: _clamp(input, min),
        "clamp_max": lambda input, max: _clamp(input, None, max),
        "pow": _power,
        "prelu": _prelu,
        **{name: _activation(name) for name in _ACTIVATIONS},
        **{name: _unary(name) for name in _UNARY.split()},
    },
    functions={
        operator.pow: _power,
        operator.ipow: _power,
        operator.neg: _unary("neg"),
        operator.abs: _unary("abs"),
        F.rrelu: _rrelu,
    },
    modules={
        nn.PReLU: lambda m, input: _prelu(input, m.weight),
        nn.RReLU: lambda m, input: _rrelu(input, m.lower, m.upper, m.training),
        **{module: _activation_module(name) for name, (module, _) in _ACTIVATIONS.items()},
    },
)
