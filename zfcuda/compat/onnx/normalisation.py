"""ONNX's normalisations in torch."""

from __future__ import annotations

import torch
from torch import nn

from zfcuda.compat.onnx.call import Call, Layer
from zfcuda.compat.onnx.parameters import with_parameters
from zfcuda.compat.onnx.table import Table

__all__ = ["NORMALISATION"]

NORMALISATION = Table()

_MOST_MAPS = 2**14  # that one is normalised by; torch pads with as many


@NORMALISATION.add("LRN", 13)
def _lrn(call: Call) -> Layer:
    size = call.attribute("size")
    if not isinstance(size, int) or not 1 <= size <= _MOST_MAPS or size % 2 == 0:
        raise call.error(f"size is {size}: expected an odd number of maps up to {_MOST_MAPS:,}")
    alpha, beta = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75)
    return Layer(nn.LocalResponseNorm(size, alpha, beta, k=call.attribute("bias", 1.0)))


@NORMALISATION.add("BatchNormalization", 15)
def _batch_norm(call: Call) -> Layer:
    call.choice("spatial", 1, 1)
    call.choice("training_mode", 0, 0)
    shape = call.input(0).shape
    if len(shape) not in (2, 4):
        raise call.error(f"takes maps [N,C,H,W] or vectors [N,C], got {len(shape)} dimensions")
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    module = kind(shape[1], call.attribute("epsilon", 1e-5), device="meta")
    scale, shift, mean, variance = (call.weights(i, shape[1]) for i in (1, 2, 3, 4))
    module.running_mean, module.running_var = mean, variance
    module.num_batches_tracked = torch.tensor(0)
    return Layer(with_parameters(module, scale, shift))


@NORMALISATION.add("LayerNormalization", 17)
def _layer_norm(call: Call) -> Layer:
    shape = call.input(0).shape
    first = call.axis(call.attribute("axis", -1), len(shape))
    weight = call.weights(1, *shape[first:])
    bias = None if call.constant(2) is None else call.weights(2, *shape[first:])
    module = nn.LayerNorm(
        shape[first:], call.attribute("epsilon", 1e-5), bias=bias is not None, device="meta"
    )
    return Layer(with_parameters(module, weight, bias))
