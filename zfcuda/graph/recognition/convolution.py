"""Convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zfcuda.graph.recognition.arguments import is_map, pair
from zfcuda.graph.recognition.spellings import Reading, Spellings
from zfcuda.rules import Conv


def _conv2d(
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Reading | None:
    fixed = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if not is_map(input) or not fixed:
        return None
    stride, dilation = pair(stride), pair(dilation)
    if stride is None or dilation is None:
        return None
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(t % 2 for t in total):  # one more below than above
            return None
        padding = [t // 2 for t in total]
    padding = (0, 0) if padding == "valid" else pair(padding)
    if padding is None:
        return None
    return Conv(weight, bias, stride, padding, dilation, groups), (input,)


def _conv_module(m: nn.Conv2d, input: Any) -> Reading | None:
    if m.padding_mode != "zeros":
        return None
    return _conv2d(input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


CONVOLUTION = Spellings(named={"conv2d": _conv2d}, modules={nn.Conv2d: _conv_module})
