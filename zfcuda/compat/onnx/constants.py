"""Nodes that make constants: the file's own, and lengths of values."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zfcuda.compat.onnx.call import BATCH, Call
from zfcuda.compat.onnx.reading import Beside, tensor

__all__ = ["MAKERS"]

_LARGEST = 2**20


def _constant(call: Call, beside: Beside) -> Tensor:
    stored = call.attribute("value")
    if stored is not None:
        return tensor(stored, beside)
    for kind, dtype in (("float", torch.float32), ("int", torch.int64)):
        for name in (f"value_{kind}", f"value_{kind}s"):
            if (value := call.attribute(name)) is not None:
                return torch.tensor(value, dtype=dtype)
    raise call.error("holds no numbers")


def _shape(call: Call, beside: Beside) -> Tensor:
    shape = call.input(0).shape[call.attribute("start", 0) : call.attribute("end")]
    return torch.tensor(shape, dtype=torch.int64)


def _constant_of_shape(call: Call, beside: Beside) -> Tensor:
    call.input(0)
    shape = call.integers(0, "")
    if min(shape, default=0) < 0 or math.prod(shape) > _LARGEST or BATCH in shape:
        raise call.error(f"of the shape {shape}")
    stored = call.attribute("value")
    value = torch.zeros(1) if stored is None else tensor(stored, beside)
    if value.numel() != 1:
        raise call.error(f"value has {value.numel()} numbers: expected one")
    return value.reshape(()).expand(shape).clone()


# By operator, with the latest of its versions that is known.
MAKERS: dict[str, tuple[Callable[[Call, Beside], Tensor], int]] = {
    "Constant": (_constant, 25),
    "Shape": (_shape, 25),
    "ConstantOfShape": (_constant_of_shape, 25),
}
