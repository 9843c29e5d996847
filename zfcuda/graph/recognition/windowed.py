"""Convolution."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda.nn
from zfcuda.graph.nodes import Affine, AvgPool, Conv, Identity, Lrn, MaxPool, Pair
from zfcuda.graph.recognition.spellings import (
    NotDeterministic,
    Reading,
    Spellings,
    is_map,
    known,
    pair,
)


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Reading | None:
    if training or running_mean is None:
        raise NotDeterministic("a batch norm uses the batch's own statistics")
    given = [v for v in (running_mean, running_var, weight, bias) if v is not None]
    if not is_map(input) or not all(isinstance(v, Tensor) for v in given):
        return None
    # In double: the scale is rounded once, as torch's own is.
    scale = (running_var.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -running_mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    return Affine(scale.to(input.dtype), shift.to(input.dtype)), (input,)


def _batch_norm_module(m: nn.BatchNorm2d, input: Any) -> Reading | None:
    training = m.training or m.running_mean is None
    statistics = (m.running_mean, m.running_var)
    return _batch_norm(input, *statistics, m.weight, m.bias, training, 0.0, m.eps)


def _local_response_norm(
    input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Reading | None:
    return (Lrn(size, alpha, beta, k), (input,)) if is_map(input) else None


def _local_response_norm_module(m: nn.LocalResponseNorm, input: Any) -> Reading | None:
    return _local_response_norm(input, m.size, m.alpha, m.beta, m.k)


NORMALISATION = Spellings(
    named={"local_response_norm": _local_response_norm},
    functions={F.batch_norm: _batch_norm},
    modules={
        nn.BatchNorm2d: _batch_norm_module,
        nn.SyncBatchNorm: _batch_norm_module,
        nn.LocalResponseNorm: _local_response_norm_module,
        zfcuda.nn.LocalResponseNorm: _local_response_norm_module,
    },
)


def _max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
    relu: bool = False,
) -> Reading | None:
    kernel = pair(kernel_size)
    window = (kernel, pair(stride, kernel), pair(padding), pair(dilation))
    if not is_map(input) or return_indices or None in window:
        return None
    return MaxPool(*window, bool(ceil_mode), relu), (input,)


def _max_pool_module(m: nn.MaxPool2d, input: Any) -> Reading | None:
    if getattr(m, "return_switches", False):
        return None
    window = (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)
    return _max_pool2d(input, *window, relu=getattr(m, "relu", False))


def _avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: Any = False,
    count_include_pad: Any = True,
    divisor_override: int | None = None,
) -> Reading | None:
    kernel = pair(kernel_size)
    window = (kernel, pair(stride, kernel), pair(padding))
    if not is_map(input) or None in window:
        return None
    rule = AvgPool(*window, bool(ceil_mode), bool(count_include_pad), divisor_override)
    return rule, (input,)


def _avg_pool_module(m: nn.AvgPool2d, input: Any) -> Reading | None:
    return _avg_pool2d(
        input,
        m.kernel_size,
        m.stride,
        m.padding,
        m.ceil_mode,
        m.count_include_pad,
        m.divisor_override,
    )


def _adaptive_window(input: Any, output_size: Any) -> Pair | None:
    """The kernel, and stride, where an adaptive pool's windows are alike and do not overlap."""
    if not is_map(input):
        return None
    wanted = known(output_size)
    wanted = (wanted, wanted) if isinstance(wanted, int) or wanted is None else tuple(wanted)
    wanted = wanted * 2 if len(wanted) == 1 else wanted
    size = input.shape[1:]
    out = [have if want is None else want for have, want in zip(size, wanted, strict=True)]
    if any(o < 1 or have % o for have, o in zip(size, out, strict=True)):
        return None
    return (size[0] // out[0], size[1] // out[1])


def _adaptive_avg_pool2d(input: Any, output_size: Any) -> Reading | None:
    kernel = _adaptive_window(input, output_size)
    if kernel is None:
        return None
    if kernel == (1, 1):
        return Identity(), (input,)
    return AvgPool(kernel, kernel, (0, 0), False, True, None), (input,)


def _adaptive_max_pool2d(
    input: Any, output_size: Any, return_indices: bool = False
) -> Reading | None:
    kernel = _adaptive_window(input, output_size)
    if kernel is None or return_indices:
        return None
    if kernel == (1, 1):
        return Identity(), (input,)
    return MaxPool(kernel, kernel, (0, 0), (1, 1), False), (input,)


def _adaptive_max_module(m: nn.AdaptiveMaxPool2d, input: Any) -> Reading | None:
    return _adaptive_max_pool2d(input, m.output_size, m.return_indices)


def _over_the_map(input: Any, dim: Any, keepdim: bool) -> bool:
    """Whether a reduction over ``dim`` makes [n,C,1,1] of a map."""
    if not is_map(input) or not keepdim or not isinstance(dim, tuple | list):
        return False
    return sorted(d % 4 for d in dim) == [2, 3]


def _mean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if not _over_the_map(input, dim, keepdim) or dtype is not None:
        return None
    size = input.shape[1:]
    return AvgPool(size, size, (0, 0), False, True, None), (input,)


def _amax(input: Any, dim: Any = (), keepdim: bool = False) -> Reading | None:
    if not _over_the_map(input, dim, keepdim):
        return None
    size = input.shape[1:]
    return MaxPool(size, size, (0, 0), (1, 1), False), (input,)


POOLING = Spellings(
    named={
        "max_pool2d": _max_pool2d,
        "avg_pool2d": _avg_pool2d,
        "adaptive_avg_pool2d": _adaptive_avg_pool2d,
        "adaptive_max_pool2d": _adaptive_max_pool2d,
        "mean": _mean,
        "amax": _amax,
    },
    modules={
        nn.MaxPool2d: _max_pool_module,
        zfcuda.nn.MaxPool2d: _max_pool_module,
        nn.AvgPool2d: _avg_pool_module,
        nn.AdaptiveAvgPool2d: lambda m, input: _adaptive_avg_pool2d(input, m.output_size),
        nn.AdaptiveMaxPool2d: _adaptive_max_module,
    },
)


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
