"""Contrast normalisation as torch's exporters write it: put together again.

``torch.nn.LocalResponseNorm`` becomes ten nodes in an ONNX file (squares, averaged across maps by a
pool over a third dimension; times alpha, plus k, to the power of beta; the division). Cones and
projections have a rule for the whole, not for the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from zfcuda.models.onnx.call import Made, Operand, needed
from zfcuda.models.onnx.layers import Elementwise, Function

_LARGEST = 2**24  # numbers of one image that are tried out
_BETWEEN = ("Pad", "Reshape", "Squeeze", "Unsqueeze")


def with_contrast_normalisation(
    made: Sequence[Made], output: str, values: Mapping[str, Operand]
) -> list[Made]:
    """The layers on which the output depends, with ``nn.LocalResponseNorm`` in the place of the
    last of its parts."""
    makers = {name: layer for layer in made for name in layer.outputs}
    found = []
    for layer in made:
        whole = _whole(layer, makers)
        if whole is not None and _agree(whole, layer, made, values):
            layer = replace(layer, module=whole, inputs=layer.inputs[:1])
        found.append(layer)
    return needed(found, output)


def _whole(last: Made, makers: Mapping[str, Made]) -> nn.LocalResponseNorm | None:
    """The normalisation that ends with this layer, going by its parts' kinds and constants."""
    if last.node.op_type != "Div" or len(last.inputs) != 2:
        return None
    source, scale = last.inputs
    numbers = []
    for kind in ("Pow", "Add", "Mul"):
        part = makers.get(scale)
        if part is None or part.node.op_type != kind or len(part.inputs) != 1:
            return None
        numbers.append(_number(part.module))
        (scale,) = part.inputs
    pool = _skip(scale, makers)
    if None in numbers or pool is None or not isinstance(pool.module, nn.AvgPool3d):
        return None
    squares = _skip(pool.inputs[0], makers)
    if squares is None or squares.node.op_type not in ("Mul", "Pow"):
        return None
    if {*squares.inputs} != {source}:
        return None
    beta, k, alpha = numbers
    return nn.LocalResponseNorm(pool.module.kernel_size[0], alpha, beta, k)


def _number(module: nn.Module) -> float | None:
    """The one number that a layer adds, multiplies by or raises to."""
    if isinstance(module, Function) and module.function is torch.pow:
        return module.args[0]
    if not isinstance(module, Elementwise) or module.constant is None:
        return None
    return module.constant.item() if module.constant.numel() == 1 else None


def _skip(name: str, makers: Mapping[str, Made]) -> Made | None:
    """What made a value, but for padding and changes of shape."""
    part = makers.get(name)
    while part is not None and part.node.op_type in _BETWEEN:
        part = makers.get(part.inputs[0])
    return part


def _agree(
    whole: nn.LocalResponseNorm, last: Made, made: Sequence[Made], values: Mapping[str, Operand]
) -> bool:
    """Whether the whole does what its parts do, tried out on maps of the right size."""
    source = last.inputs[0]
    if values[source].shape[1:].numel() > _LARGEST:
        return False
    before = {source, *(name for layer in needed(made, source) for name in layer.outputs)}
    generator = torch.Generator().manual_seed(0)
    shape = (2, *values[source].shape[1:])
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Large numbers: with small ones almost any average would do.
    x *= (1 / max(whole.alpha, 1e-12)) ** 0.5
    found = {source: x}
    with torch.no_grad():
        for layer in needed(made, last.outputs[0]):
            if before.isdisjoint(layer.outputs):
                found[layer.outputs[0]] = layer.module(*(found[name] for name in layer.inputs))
        return torch.allclose(found[last.outputs[0]], whole(x), rtol=1e-6, atol=1e-6)
