"""What results demand of their tensors, and of everything else that was in a file."""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor


def expect_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Raise unless ``tensor``, called ``name``, has this shape (None: any length).

    Raises:
        ValueError: it has another; both are named.
    """
    fits = tensor.dim() == len(shape) and all(
        wanted is None or length == wanted
        for length, wanted in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have shape [{wanted}], got {list(tensor.shape)}")


def expect_types(result: Any) -> None:
    """Raise unless the fields of a dataclass, and of those in it, are what they are declared to be.

    Raises:
        ValueError: one is not; it is named.
    """
    hints = get_type_hints(type(result))
    for field in dataclasses.fields(result):
        value, hint = getattr(result, field.name), hints[field.name]
        if not _is(value, hint):
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise ValueError(f"its {field.name} is of another type than {wanted}")


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, one) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is dict:
        of_name, of_item = arguments
        return isinstance(value, dict) and all(
            _is(name, of_name) and _is(item, of_item) for name, item in value.items()
        )
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        return len(value) == len(each) and all(map(_is, value, each))
    if dataclasses.is_dataclass(hint) and isinstance(value, hint):
        expect_types(value)
        return True
    wanted = (int, float) if hint is float else hint  # JSON's 1.0 may have been written as 1
    return isinstance(value, wanted) and (hint is bool or not isinstance(value, bool))
