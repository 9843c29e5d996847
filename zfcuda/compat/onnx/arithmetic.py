"""ONNX's arithmetic in torch: functions of several values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zfcuda.compat.onnx.call import BATCH, Call, Layer
from zfcuda.compat.onnx.layers import Elementwise, Function
from zfcuda.compat.onnx.table import Maker, Table

__all__ = ["ARITHMETIC", "of_operands"]

ARITHMETIC = Table()


def of_operands(function: Callable[[Any, Any], Tensor]) -> Maker:
    """What makes a layer that folds ``function`` over its inputs, of which at most one, at an end,
    is a constant of the file, or all are."""

    def layer(call: Call) -> Layer:
        given = [call.input(i) for i in range(len(call.inputs))]
        fixed = [i for i, operand in enumerate(given) if operand.constant is not None]
        if len(fixed) in (0, len(given)):
            return Layer(Elementwise(function), tuple(range(len(given))))
        if len(fixed) > 1 or fixed[0] not in (0, len(given) - 1):
            raise call.error("takes several constants of the file")
        _require_no_lengths(call, given[fixed[0]].constant)
        taken = tuple(i for i in range(len(given)) if i not in fixed)
        return Layer(Elementwise(function, given[fixed[0]].constant, fixed[0] == 0), taken)

    return layer


def _require_no_lengths(call: Call, constant: Tensor) -> None:
    """What is computed with the number of images is no constant of the network."""
    if constant.numel() == 1 and constant.item() and constant.item() % BATCH == 0:
        raise call.error("computes with the number of images")


def _divided(a: Tensor, b: Tensor) -> Tensor:
    if isinstance(b, Tensor) and not b.is_floating_point():
        return torch.div(a, b, rounding_mode="trunc")
    return torch.div(a, b)


for _name, _newest, _function in (
    ("Add", 14, torch.add),
    ("Sub", 14, torch.sub),
    ("Mul", 14, torch.mul),
    ("Div", 14, _divided),
    ("Sum", 13, torch.add),
    ("Max", 13, torch.maximum),
    ("Min", 13, torch.minimum),
    ("Equal", 19, torch.eq),
):
    ARITHMETIC.add(_name, _newest)(of_operands(_function))


@ARITHMETIC.add("Pow", 15)
def _pow(call: Call) -> Layer:
    exponent = call.input(1).constant
    if exponent is not None and exponent.numel() == 1 and exponent.dim() <= 1:
        return Layer(Function(torch.pow, exponent.item()))
    return of_operands(torch.pow)(call)
