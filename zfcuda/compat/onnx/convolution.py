"""ONNX's convolution in torch."""

from __future__ import annotations

from functools import partial

from torch import nn

from zfcuda.compat.onnx.call import Call, Layer
from zfcuda.compat.onnx.layers import Conv2d
from zfcuda.compat.onnx.padding import window_of
from zfcuda.compat.onnx.parameters import with_parameters
from zfcuda.compat.onnx.table import Table

__all__ = ["CONVOLUTION"]

CONVOLUTION = Table()


@CONVOLUTION.add("Conv", 22)
def _conv(call: Call) -> Layer:
    weight = call.weights(1, None, None, None, None)
    bias = None if call.constant(2) is None else call.weights(2, len(weight))
    groups = call.attribute("group", 1)
    channels = weight.shape[1] * groups
    if groups < 1 or len(weight) % groups or channels != call.input(0).shape[1]:
        raise call.error(
            f"its filters {list(weight.shape)} in {groups} groups do not fit maps of "
            f"{call.input(0).shape[1]} channels"
        )
    window = window_of(call, tuple(weight.shape[2:]))
    if window.kernel != tuple(weight.shape[2:]):
        raise call.error(f"kernel_shape is {window.kernel}, its filters are {list(weight.shape)}")
    make = partial(
        nn.Conv2d,
        channels,
        len(weight),
        window.kernel,
        window.stride,
        dilation=window.dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    top, left, bottom, right = window.pads
    if window.as_if_symmetric:
        return Layer(with_parameters(make(padding=window.before), weight, bias))
    apart = (top - bottom, left - right)
    # Zeros around the filters, unless they would outgrow these.
    few = all(
        abs(d) <= k * n for d, k, n in zip(apart, window.kernel, window.dilation, strict=True)
    )
    if few and not any(d % n for d, n in zip(apart, window.dilation, strict=True)):
        make = partial(Conv2d, *make.args, **make.keywords)
        return Layer(with_parameters(make(pads=window.pads), weight, bias))
    zeros = nn.ZeroPad2d((left, right, top, bottom))
    return Layer(nn.Sequential(zeros, with_parameters(make(), weight, bias)))
