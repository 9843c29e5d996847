"""Arithmetic of two maps, or of a map and a number or a parameter per channel."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zfcuda.graph.nodes import Value
from zfcuda.graph.recognition.arguments import is_map, is_number
from zfcuda.graph.recognition.spellings import Reader, Reading, Spellings
from zfcuda.rules import Affine, Binary, Pointwise


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
