"""What ONNX's arithmetic, activations, norms and linear layers are in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.models.onnx.call import BATCH, Call, Layer, Maker, Table
from zfcuda.models.onnx.layers import (
    Elementwise,
    FlatSoftmax,
    Function,
    HardSigmoid,
    with_parameters,
)
from zfcuda.models.onnx.reading import DTYPES

ELEMENTWISE = Table()


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
        constant = given[fixed[0]].constant
        if constant.numel() == 1 and constant.item() and constant.item() % BATCH == 0:
            raise call.error("computes with the number of images")
        taken = tuple(i for i in range(len(given)) if i not in fixed)
        return Layer(Elementwise(function, constant, fixed[0] == 0), taken)

    return layer


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
    ELEMENTWISE.add(_name, _newest)(of_operands(_function))


@ELEMENTWISE.add("Pow", 15)
def _pow(call: Call) -> Layer:
    exponent = call.input(1).constant
    if exponent is not None and exponent.numel() == 1 and exponent.dim() <= 1:
        return Layer(Function(torch.pow, exponent.item()))
    return of_operands(torch.pow)(call)


_MOST_MAPS = 2**14  # that one is normalised by; torch pads with as many


@ELEMENTWISE.add("LRN", 13)
def _lrn(call: Call) -> Layer:
    size = call.attribute("size")
    if not isinstance(size, int) or not 1 <= size <= _MOST_MAPS or size % 2 == 0:
        raise call.error(f"size is {size}: expected an odd number of maps up to {_MOST_MAPS:,}")
    alpha, beta = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75)
    return Layer(nn.LocalResponseNorm(size, alpha, beta, k=call.attribute("bias", 1.0)))


@ELEMENTWISE.add("BatchNormalization", 15)
def _batch_norm(call: Call) -> Layer:
    call.choice("spatial", 1, 1)
    call.choice("training_mode", 0, 0)
    rank = len(call.shape)
    if rank not in (2, 4):
        raise call.error(f"takes maps [N,C,H,W] or vectors [N,C], got {rank} dimensions")
    channels = call.shape[1]
    kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    module = kind(channels, call.attribute("epsilon", 1e-5), device="meta")
    scale, shift, module.running_mean, module.running_var = (
        call.weights(i, channels) for i in (1, 2, 3, 4)
    )
    module.num_batches_tracked = torch.tensor(0)
    return Layer(with_parameters(module, scale, shift))


@ELEMENTWISE.add("LayerNormalization", 17)
def _layer_norm(call: Call) -> Layer:
    shape = call.shape[call.axis(call.attribute("axis", -1)) :]
    weight, bias = call.weights(1, *shape), call.weights(2, *shape, optional=True)
    epsilon = call.attribute("epsilon", 1e-5)
    module = nn.LayerNorm(shape, epsilon, bias=bias is not None, device="meta")
    return Layer(with_parameters(module, weight, bias))


_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha, gamma; torch has no others


for _name, _newest, _module in (
    ("Relu", 14, nn.ReLU),
    ("Sigmoid", 13, nn.Sigmoid),
    ("Tanh", 13, nn.Tanh),
    ("HardSwish", 22, nn.Hardswish),
    ("Mish", 22, nn.Mish),
    ("Softplus", 22, nn.Softplus),
    ("Softsign", 22, nn.Softsign),
    ("Erf", 13, partial(Function, torch.erf)),
    ("Exp", 13, partial(Function, torch.exp)),
    ("Log", 13, partial(Function, torch.log)),
    ("Sqrt", 13, partial(Function, torch.sqrt)),
    ("Abs", 13, partial(Function, torch.abs)),
    ("Neg", 13, partial(Function, torch.neg)),
    ("Reciprocal", 13, partial(Function, torch.reciprocal)),
    ("Identity", 25, nn.Identity),
):
    ELEMENTWISE.add_module(_name, _newest, _module)


def _with_alpha(module: Callable[[float], nn.Module], usual: float) -> Maker:
    return lambda call: Layer(module(call.attribute("alpha", usual)))


ELEMENTWISE.add("LeakyRelu", 16)(_with_alpha(nn.LeakyReLU, 0.01))
ELEMENTWISE.add("Elu", 22)(_with_alpha(nn.ELU, 1.0))
ELEMENTWISE.add("Celu", 28)(_with_alpha(nn.CELU, 1.0))


@ELEMENTWISE.add("Selu", 22)
def _selu(call: Call) -> Layer:
    alpha, gamma = call.attribute("alpha", _SELU[0]), call.attribute("gamma", _SELU[1])
    if max(abs(alpha - _SELU[0]), abs(gamma - _SELU[1])) > 1e-6:  # as float32
        raise call.error(f"alpha {alpha} and gamma {gamma}: expected {_SELU[0]} and {_SELU[1]}")
    return Layer(nn.SELU())


@ELEMENTWISE.add("PRelu", 16)
def _prelu(call: Call) -> Layer:
    slope = call.input(1).constant
    if slope is None:
        raise call.error("its slopes must be constants of the file")
    per_channel = (call.shape[1], *(1 for _ in call.shape[2:]))
    if slope.numel() != 1 and tuple(slope.shape) not in (per_channel, (1, *per_channel)):
        raise call.error(f"its slopes {list(slope.shape)} are not one for each channel")
    module = nn.PReLU(slope.numel(), device="meta")
    return Layer(with_parameters(module, slope.reshape(-1), None))


@ELEMENTWISE.add("Clip", 13)
def _clip(call: Call) -> Layer:
    ends = []
    for index, name, open_end in ((1, "min", -torch.inf), (2, "max", torch.inf)):
        end = call.number(index, name, open_end)
        # What stands for "no limit" in old files.
        ends.append(open_end if abs(end) >= torch.finfo(torch.float32).max else end)
    low, high = ends
    if (low, high) == (0, torch.inf):
        return Layer(nn.ReLU())
    if (low, high) == (0, 6):
        return Layer(nn.ReLU6())
    return Layer(Function(torch.clamp, min=low, max=high))


@ELEMENTWISE.add("HardSigmoid", 22)
def _hard_sigmoid(call: Call) -> Layer:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    torchs = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5  # as a float32
    return Layer(nn.Hardsigmoid() if torchs else HardSigmoid(alpha, beta))


@ELEMENTWISE.add("Gelu", 20)
def _gelu(call: Call) -> Layer:
    return Layer(nn.GELU(call.choice("approximate", "none", "none", "tanh")))


@ELEMENTWISE.add("Swish", 24)
def _swish(call: Call) -> Layer:
    call.choice("alpha", 1.0, 1.0)
    return Layer(nn.SiLU())


@ELEMENTWISE.add("Dropout", 22)
def _dropout(call: Call) -> Layer:
    """The network is made for looking at: in eval mode, whatever the file says."""
    return Layer(nn.Dropout(call.number(1, "ratio", 0.5)))


@ELEMENTWISE.add("Cast", 28)
def _cast(call: Call) -> Layer:
    dtype = DTYPES.get(call.attribute("to"))
    if dtype is None:
        raise call.error(f"to the type {call.attribute('to')}")
    return Layer(nn.Identity() if dtype == call.input(0).dtype else Function(Tensor.to, dtype))


@ELEMENTWISE.add("Softmax", 13)
@ELEMENTWISE.add("LogSoftmax", 13)
def _softmax(call: Call) -> Layer:
    logarithm = call.node.op_type == "LogSoftmax"
    dim = call.axis(call.attribute("axis", -1 if call.version >= 13 else 1))
    if call.version >= 13 or all(length == 1 for length in call.shape[dim + 1 :]):
        return Layer(nn.LogSoftmax(dim) if logarithm else nn.Softmax(dim))
    return Layer(FlatSoftmax(torch.log_softmax if logarithm else torch.softmax, dim))


@ELEMENTWISE.add("Gemm", 13)
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


@ELEMENTWISE.add("MatMul", 13)
def _matmul(call: Call) -> Layer:
    right = call.input(1).constant
    if right is not None and right.dim() == 2 and call.input(0).constant is None:
        return Layer(_linear(call, right.T, None))
    return of_operands(torch.matmul)(call)


def _linear(call: Call, weight: Tensor, bias: Tensor | None) -> nn.Module:
    given, taken = call.shape[-1], weight.shape[1]
    if given != taken:
        raise call.error(f"its weights take {taken} numbers, the input has {given}")
    module = nn.Linear(taken, len(weight), bias is not None, device="meta")
    return with_parameters(module, weight.contiguous(), bias)
