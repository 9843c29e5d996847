"""Functions of each element by itself: activations, powers, clamps."""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.graph.nodes import Value
from zfcuda.graph.recognition.arguments import is_map, is_number
from zfcuda.graph.recognition.spellings import NotDeterministic, Reader, Reading, Spellings
from zfcuda.rules import Pointwise

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
    input: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace=False
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
