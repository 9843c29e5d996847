"""A result in a line or two, without the numbers in its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def in_short(value: Any) -> str:
    """``repr(value)`` with type and shape in the place of a tensor, and of long lists the length
    only."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{kind} {list(value.shape)}" if value.dim() else repr(value.item())
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {in_short(item)}" for key, item in value.items()) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.repr]
        fields = (f"{name}={in_short(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, tuple | list) and len(value) > 8:
        return f"{len(value)} items"
    return repr(value)
