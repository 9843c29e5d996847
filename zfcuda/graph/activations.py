"""Activations: how ATen calls what torch.nn.functional does to each number by itself."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda.graph.nodes import Sized, Value
from zfcuda.graph.reading import Reader, Reading, is_map, is_number, reader, two_maps
from zfcuda.graph.rules import Pointwise

__all__: list[str] = []  # all is entered into the registry of readers

# Activations by ATen's names, with what ours and torch.nn.functional's numbers are called.
_ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "leaky_relu": ("leaky_relu", ("negative_slope",)),
    "celu": ("celu", ("alpha",)),
    "gelu": ("gelu", ("approximate",)),
    "silu": ("silu", ()),
    "mish": ("mish", ()),
    "softplus": ("softplus", ("beta", "threshold")),
    "hardswish": ("hardswish", ()),
    "hardsigmoid": ("hardsigmoid", ()),
    "log_sigmoid_forward": ("logsigmoid", ()),
    "softshrink": ("softshrink", ("lambd",)),
    "hardshrink": ("hardshrink", ("lambd",)),
    "threshold": ("threshold", ("threshold", "value")),
}


def _activation(name: str) -> Reader:
    called, numbers = _ACTIVATIONS[name]
    function = getattr(F, called)

    def read(x: Any, *args: Any, **kwargs: Any) -> Reading | None:
        given = dict(zip(numbers, args, strict=False)) | kwargs
        if not is_map(x) or not set(given) <= {*numbers} or not _plain(given.values()):
            return None
        return Pointwise(called, functools.partial(function, **given) if given else function), (x,)

    return read


def _plain(values: Any) -> bool:
    return not any(isinstance(v, Value | Tensor | Sized) for v in values)


for _name in _ACTIVATIONS:
    reader(_name)(_activation(_name))


@reader("relu")
def _relu(x: Any) -> Reading | None:
    return (Pointwise("relu", torch.relu), (x,)) if is_map(x) else None


@reader("hardtanh")
def _hardtanh(x: Any, low: Any = -1.0, high: Any = 1.0) -> Reading | None:
    if not is_map(x):
        return None
    if (low, high) == (0, 6):
        return Pointwise("relu6", F.relu6), (x,)
    return Pointwise("hardtanh", functools.partial(F.hardtanh, min_val=low, max_val=high)), (x,)


_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1)


@reader("elu")
def _elu(x: Any, alpha: Any = 1.0, scale: Any = 1, input_scale: Any = 1) -> Reading | None:
    if not is_map(x):
        return None
    if (scale, input_scale) == (1, 1):
        return Pointwise("elu", functools.partial(F.elu, alpha=alpha)), (x,)
    if (alpha, scale, input_scale) == _SELU:
        return Pointwise("selu", F.selu), (x,)
    function = functools.partial(_elu_of, alpha=alpha, scale=scale, input_scale=input_scale)
    return Pointwise("elu", function), (x,)


def _elu_of(x: Tensor, **numbers: Any) -> Tensor:
    return torch.ops.aten.elu(x, *numbers.values())


@reader("clamp")
def _clamp(x: Any, min: Any = None, max: Any = None) -> Reading | None:
    if not is_map(x) or any(v is not None and not is_number(v) for v in (min, max)):
        return None
    if min == 0 and max is None:
        return Pointwise("relu", torch.relu), (x,)
    return Pointwise("clamp", functools.partial(torch.clamp, min=min, max=max)), (x,)


@reader("clamp_min")
def _clamp_min(x: Any, min: Any) -> Reading | None:
    return _clamp(x, min)


@reader("clamp_max")
def _clamp_max(x: Any, max: Any) -> Reading | None:
    return _clamp(x, None, max)


@reader("_prelu_kernel")
def _prelu(x: Any, weight: Any) -> Reading | None:
    if not is_map(x) or not isinstance(weight, Tensor):
        return None
    return Pointwise("prelu", lambda x: F.prelu(x, weight.flatten())), (x,)


@reader("rrelu_with_noise")
def _rrelu(
    x: Any, noise: Any, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: Any = None,
) -> Reading | None:  # fmt: skip
    function = functools.partial(F.leaky_relu, negative_slope=(lower + upper) / 2)
    return (Pointwise("rrelu", function), (x,)) if is_map(x) else None


@reader("pow")
def _power(x: Any, exponent: Any) -> Reading | None:
    both = two_maps("pow", torch.pow, x, exponent)
    if both is not None:
        return both
    if not is_map(x) or not is_number(exponent):
        return None
    return Pointwise("pow", functools.partial(torch.pow, exponent=exponent)), (x,)
