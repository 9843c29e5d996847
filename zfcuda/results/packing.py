"""A result as JSON and arrays, and back without loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` as strict JSON; its tensors go to ``arrays``, under names that begin with ``name``,
    and are referred to by these."""
    if isinstance(value, Tensor):
        arrays[name] = _to_array(value)
        dtype = str(value.dtype).removeprefix("torch.")
        return {"array": name, "dtype": dtype, "shape": list(value.shape)}
    if dataclasses.is_dataclass(value):
        return {
            field.name: pack(getattr(value, field.name), f"{name}{field.name}", arrays)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: pack(item, f"{name}.{key}.", arrays) for key, item in value.items()}
    if isinstance(value, tuple):
        return [pack(item, f"{name}.{i}", arrays) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):  # strict JSON has no NaN
        return {"float": str(value)}
    return value


def unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """What :func:`pack` was given; of dataclasses their fields as a dict.

    Raises:
        KeyError, TypeError, ValueError: ``value`` and ``arrays`` do not belong together.
    """
    if isinstance(value, list):
        return tuple(unpack(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("float"), str):
        return float(value["float"])
    if isinstance(value.get("array"), str):
        return _to_tensor(value, arrays[value["array"]])
    return {key: unpack(item, arrays) for key, item in value.items()}


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none: keep the bits
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def _to_tensor(packed: Mapping[str, Any], array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    if packed["dtype"] == "bfloat16":
        tensor = tensor.view(torch.bfloat16)
    if str(tensor.dtype) != f"torch.{packed['dtype']}" or list(tensor.shape) != packed["shape"]:
        raise ValueError(
            f"array {packed['array']!r} should be {packed['dtype']} {packed['shape']}, "
            f"got {tensor.dtype} {list(tensor.shape)}"
        )
    return tensor
