"""What a family of calls tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from zfcuda.graph.nodes import Value
from zfcuda.rules import Rule

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
