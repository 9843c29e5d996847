"""ONNX's matrix products in torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zfcuda.compat.onnx.arithmetic import of_operands
from zfcuda.compat.onnx.call import Call, Layer
from zfcuda.compat.onnx.parameters import with_parameters
from zfcuda.compat.onnx.table import Table

__all__ = ["LINEAR"]

LINEAR = Table()


@LINEAR.add("Gemm", 13)
def _gemm(call: Call) -> Layer:
    call.choice("transA", 0, 0)
    weight = call.weights(1, None, None)
    weight = weight if call.attribute("transB", 0) else weight.T
    weight = weight * alpha if (alpha := call.attribute("alpha", 1.0)) != 1 else weight
    bias = call.constant(2)
    if bias is not None:
        if bias.numel() not in (1, len(weight)) or bias.shape[:-1].numel() != 1:
            raise call.error(f"its bias {list(bias.shape)} is not one for each output")
        bias = call.attribute("beta", 1.0) * bias.reshape(-1).expand(len(weight))
    return Layer(_linear(call, weight, bias))


@LINEAR.add("MatMul", 13)
def _matmul(call: Call) -> Layer:
    right = call.input(1).constant
    if right is not None and right.dim() == 2 and call.input(0).constant is None:
        return Layer(_linear(call, right.T, None))
    return of_operands(torch.matmul)(call)


def _linear(call: Call, weight: Tensor, bias: Tensor | None) -> nn.Module:
    taken = call.input(0).shape
    if taken[-1] != weight.shape[1]:
        raise call.error(f"its weights take {weight.shape[1]} numbers, the input has {taken[-1]}")
    module = nn.Linear(weight.shape[1], len(weight), bias is not None, device="meta")
    return with_parameters(module, weight.contiguous(), bias)
