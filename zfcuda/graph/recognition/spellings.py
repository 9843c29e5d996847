"""What a family of calls tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from torch import nn

from zfcuda.graph.nodes import Pair, Rule, Value

Reading = tuple[Rule, tuple[Value, ...]]
Reader = Callable[..., Reading | None]


class NotDeterministic(Exception):
    """The call's result is not a function of one image."""


@dataclass(frozen=True)
class Spellings:
    """A family's readers, by what its calls are spelled like.

    Attributes:
        named: by the name of a function of torch or torch.nn.functional and of a tensor's method,
            with or without an underscore at its end.
        methods: by names that only methods have.
        functions: further ones, operators among them.
        modules: by class; the reader takes the module first.
        torchvisions: by the name of a function of torchvision that it keeps torch.fx out of.
    """

    named: Mapping[str, Reader] = field(default_factory=dict)
    methods: Mapping[str, Reader] = field(default_factory=dict)
    functions: Mapping[Any, Reader] = field(default_factory=dict)
    modules: Mapping[type[nn.Module], Reader] = field(default_factory=dict)
    torchvisions: Mapping[str, Reader] = field(default_factory=dict)


def is_map(x: Any) -> bool:
    return isinstance(x, Value) and x.is_map


def known(x: Any) -> Any:
    """An argument with what depends on shapes put in (``kernel_size=x.shape[2:]``)."""
    if isinstance(x, Value):
        return x.constant
    return type(x)(map(known, x)) if type(x) in (tuple, list, torch.Size) else x


def pair(value: Any, default: Any = None) -> Pair | None:
    value = known(value)
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        value = default
    both = (value, value) if isinstance(value, Integral) else value
    if not isinstance(both, Sequence) or isinstance(both, str) or len(both) not in (1, 2):
        return None
    if not all(isinstance(v, Integral) for v in both):
        return None
    return (int(both[0]), int(both[-1]))


def is_number(x: Any) -> bool:
    return isinstance(x, Integral | float) and not isinstance(x, bool)
