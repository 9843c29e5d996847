"""Batch normalisation by running statistics, and contrast normalisation across channels."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

import zfcuda.nn
from zfcuda.graph.recognition.arguments import is_map
from zfcuda.graph.recognition.spellings import NotDeterministic, Reading, Spellings
from zfcuda.rules import Affine, Lrn


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
