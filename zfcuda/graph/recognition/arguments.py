"""What readers ask of a call's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch

from zfcuda.graph.nodes import Value
from zfcuda.rules import Pair


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
