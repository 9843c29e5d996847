"""ONNX's functions of one value, element by element or along an axis, in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from zfcuda.compat.onnx.call import Call, Layer
from zfcuda.compat.onnx.layers import FlatSoftmax, Function, HardSigmoid
from zfcuda.compat.onnx.parameters import with_parameters
from zfcuda.compat.onnx.reading import DTYPES
from zfcuda.compat.onnx.table import Maker, Table

__all__ = ["ACTIVATIONS"]

ACTIVATIONS = Table()

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
):
    ACTIVATIONS.add_module(_name, _newest, _module)


@ACTIVATIONS.add("LeakyRelu", 16)
def _leaky_relu(call: Call) -> Layer:
    return Layer(nn.LeakyReLU(call.attribute("alpha", 0.01)))


@ACTIVATIONS.add("Elu", 22)
def _elu(call: Call) -> Layer:
    return Layer(nn.ELU(call.attribute("alpha", 1.0)))


@ACTIVATIONS.add("Celu", 28)
def _celu(call: Call) -> Layer:
    return Layer(nn.CELU(call.attribute("alpha", 1.0)))


@ACTIVATIONS.add("Selu", 22)
def _selu(call: Call) -> Layer:
    alpha, gamma = call.attribute("alpha", _SELU[0]), call.attribute("gamma", _SELU[1])
    if max(abs(alpha - _SELU[0]), abs(gamma - _SELU[1])) > 1e-6:  # as float32
        raise call.error(f"alpha {alpha} and gamma {gamma}: expected {_SELU[0]} and {_SELU[1]}")
    return Layer(nn.SELU())


@ACTIVATIONS.add("PRelu", 16)
def _prelu(call: Call) -> Layer:
    channels = call.input(0).shape[1]
    slope = call.input(1).constant
    if slope is None:
        raise call.error("its slopes must be constants of the file")
    per_channel = (channels, *(1 for _ in call.input(0).shape[2:]))
    if slope.numel() != 1 and tuple(slope.shape) not in (per_channel, (1, *per_channel)):
        raise call.error(f"its slopes {list(slope.shape)} are not one for each channel")
    module = nn.PReLU(slope.numel(), device="meta")
    return Layer(with_parameters(module, slope.reshape(-1), None))


@ACTIVATIONS.add("Clip", 13)
def _clip(call: Call) -> Layer:
    ends = []
    for index, name, open_end in ((1, "min", -torch.inf), (2, "max", torch.inf)):
        end = call.constant(index)
        end = call.attribute(name, open_end) if end is None else end.item()
        # What stands for "no limit" in old files.
        ends.append(open_end if abs(end) >= torch.finfo(torch.float32).max else end)
    low, high = ends
    if (low, high) == (0, torch.inf):
        return Layer(nn.ReLU())
    if (low, high) == (0, 6):
        return Layer(nn.ReLU6())
    return Layer(Function(torch.clamp, min=low, max=high))


@ACTIVATIONS.add("HardSigmoid", 22)
def _hard_sigmoid(call: Call) -> Layer:
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    torchs = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5  # as a float32
    return Layer(nn.Hardsigmoid() if torchs else HardSigmoid(alpha, beta))


@ACTIVATIONS.add("Gelu", 20)
def _gelu(call: Call) -> Layer:
    return Layer(nn.GELU(call.choice("approximate", "none", "none", "tanh")))


@ACTIVATIONS.add("Swish", 24)
def _swish(call: Call) -> Layer:
    call.choice("alpha", 1.0, 1.0)
    return Layer(nn.SiLU())


@ACTIVATIONS.add("Dropout", 22)
def _dropout(call: Call) -> Layer:
    """The network is made for looking at: in eval mode, whatever the file says."""
    ratio = call.constant(1)
    return Layer(nn.Dropout(call.attribute("ratio", 0.5) if ratio is None else ratio.item()))


@ACTIVATIONS.add("Cast", 28)
def _cast(call: Call) -> Layer:
    dtype = DTYPES.get(call.attribute("to"))
    if dtype is None:
        raise call.error(f"to the type {call.attribute('to')}")
    return Layer(nn.Identity() if dtype == call.input(0).dtype else Function(Tensor.to, dtype))


ACTIVATIONS.add_module("Identity", 25, nn.Identity)


def _softmax(module: type[nn.Module], function: Callable[..., Tensor]) -> Maker:
    def layer(call: Call) -> Layer:
        shape = call.input(0).shape
        dim = call.axis(call.attribute("axis", -1 if call.version >= 13 else 1), len(shape))
        if call.version >= 13 or all(length == 1 for length in shape[dim + 1 :]):
            return Layer(module(dim=dim))
        return Layer(FlatSoftmax(function, dim))

    return layer


ACTIVATIONS.add("Softmax", 13)(_softmax(nn.Softmax, torch.softmax))
ACTIVATIONS.add("LogSoftmax", 13)(_softmax(nn.LogSoftmax, torch.log_softmax))
