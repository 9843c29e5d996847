"""ONNX's pooling in torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from zfcuda.compat.onnx.call import Call, Layer
from zfcuda.compat.onnx.layers import AveragePool
from zfcuda.compat.onnx.padding import window_of
from zfcuda.compat.onnx.table import Table

__all__ = ["POOLING"]

POOLING = Table()


@POOLING.add("MaxPool", 22)
def _max_pool(call: Call) -> Layer:
    window = window_of(call, pool=True)
    ceil = window.torchs_ceil_mode
    make = partial(nn.MaxPool2d, window.kernel, window.stride, dilation=window.dilation)
    if ceil is not None:
        return Layer(make(padding=window.before, ceil_mode=ceil))
    return Layer(nn.Sequential(nn.ConstantPad2d(window.filling, -torch.inf), make()))


@POOLING.add("AveragePool", 22)
def _average_pool(call: Call) -> Layer:
    if len(call.input(0).shape) == 5:
        return _average_pool_3d(call)
    window = window_of(call, pool=True)
    if window.dilation != (1, 1):
        raise call.error(f"dilations are {list(window.dilation)}: expected ones")
    counts = bool(call.attribute("count_include_pad", 0))
    ceil = window.torchs_ceil_mode if window.symmetric or not counts else None
    if ceil is None:
        top, left, bottom, right = window.pads if counts else (0, 0, 0, 0)
        counted = (left, right, top, bottom)
        return Layer(AveragePool(window.kernel, window.stride, window.filling, counted))
    return Layer(nn.AvgPool2d(window.kernel, window.stride, window.before, ceil, counts))


def _average_pool_3d(call: Call) -> Layer:
    """As torch's exporters write contrast normalisation, across maps (``contrast``)."""
    kernel, strides = call.attribute("kernel_shape"), call.attribute("strides", [1, 1, 1])
    plain = call.attribute("auto_pad", "NOTSET") == "NOTSET" and not call.attribute("ceil_mode", 0)
    sizes = zip(call.input(0).shape[2:], kernel, strict=True)
    small = all(1 <= k <= length for length, k in sizes) and min(strides) >= 1
    if any(call.attribute("pads", [0])) or not plain or not small:
        raise call.error("on five dimensions, with padding or windows that do not fit")
    return Layer(nn.AvgPool3d(tuple(kernel), tuple(strides)))


@POOLING.add("GlobalAveragePool", 22)
def _global_average_pool(call: Call) -> Layer:
    _require_maps(call)
    return Layer(nn.AdaptiveAvgPool2d(1))


@POOLING.add("GlobalMaxPool", 22)
def _global_max_pool(call: Call) -> Layer:
    _require_maps(call)
    return Layer(nn.AdaptiveMaxPool2d(1))


def _require_maps(call: Call) -> None:
    if len(call.input(0).shape) != 4:
        raise call.error(f"takes maps [N,C,H,W], got {len(call.input(0).shape)} dimensions")
