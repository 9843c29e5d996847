"""Steps on whole maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.graph.convolving import linear
from zfcuda.graph.rules import (
    Affine,
    AvgPool,
    Binary,
    Concat,
    Conv,
    Lrn,
    MaxPool,
    Pixelwise,
    Pointwise,
)
from zfcuda.steps.step import Step, Steps

# Activations that torch can write over their input: new memory for their result would cost more
# than the activation.
_INPLACE = (
    F.celu,
    F.elu,
    F.hardsigmoid,
    F.hardswish,
    F.hardtanh,
    F.leaky_relu,
    F.mish,
    F.relu6,
    F.selu,
    F.silu,
)


def run(steps: Steps, step: Step, values: Mapping[int, Any]) -> Any:
    """The step's value for a batch, from the values of its inputs (by node)."""
    rule = step.rule
    called = step.node.function
    if step.inputs and type(called) is nn.Linear and "forward" not in vars(called):
        return linear(values[step.inputs[0]], called.weight, called.bias)
    if not step.local:
        return steps.graph.evaluate(step.node, Values(steps.source, values))
    x = values[step.inputs[0]]
    match rule:
        case Conv():
            out = step.convolution(x, rule.padding)
        case MaxPool():
            out = ops.max_pool2d(
                x,
                rule.kernel,
                rule.stride,
                rule.padding,
                rule.dilation,
                rule.ceil_mode,
                rule.relu,
            )[0]
        case AvgPool():
            out = F.avg_pool2d(
                x,
                rule.kernel,
                rule.stride,
                rule.padding,
                rule.ceil_mode,
                rule.count_include_pad,
                rule.divisor,
            )
        case Lrn():
            out = ops.local_response_norm(x, rule.size, rule.alpha, rule.beta, rule.k)
        case Concat():
            out = torch.cat([values[i] for i in step.inputs], 1)
        case Binary():
            out = rule.function(*(values[i] for i in step.inputs))
        case Affine():
            out = affine(x, rule)
        case Pointwise() | Pixelwise():
            out = rule.function(x)
    return finish(step, out)


def finish(step: Step, out: Tensor) -> Tensor:
    """What the step does last, to a fresh ``out`` [n,C,h,w]."""
    for rule in step.then:
        if isinstance(rule, Affine):
            out = affine(out, rule)
        elif rule.name == "relu":
            out = torch.relu_(out)
        elif getattr(rule.function, "func", rule.function) in _INPLACE:
            out = rule.function(out, inplace=True)
        else:
            out = rule.function(out)
    return out


def affine(x: Tensor, rule: Affine) -> Tensor:
    """The rule on maps [n,C,h,w]."""
    scale, shift = rule.scale.expand(x.shape[1]), rule.shift.expand(x.shape[1])
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class Values(Mapping[int, Any]):
    """Values by any node, looked up where the value is kept."""

    def __init__(self, source: Mapping[int, int], values: Mapping[int, Any]) -> None:
        self._source, self._values = source, values

    def __getitem__(self, node: int) -> Any:
        return self._values[self._source[node]]

    def __iter__(self) -> Iterator[int]:
        return (node for node in self._source if self._source[node] in self._values)

    def __len__(self) -> int:
        return sum(1 for _ in self)
