"""Operators that treat every pixel by itself: scale and shift, activations, what mixes channels
only, contrast normalisation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zfcuda import ops
from zfcuda.cones.operators.batch import Batch, Manner
from zfcuda.cones.operators.behaviours import (
    Naming,
    Step,
    below,
    each_pixel,
    finishes,
    looks_back,
    needed,
    reached,
    whole,
    words,
)
from zfcuda.cones.operators.patches import as_pixels, as_row
from zfcuda.cones.operators.rectangles import Boxes
from zfcuda.cones.operators.signals import Ints, Points, Signal
from zfcuda.graph.nodes import Node
from zfcuda.graph.pixelwise import Chain
from zfcuda.graph.rules import Affine, Binary, Concat, Identity, Lrn, Pixelwise, Pointwise, Rule
from zfcuda.ops.windows import as_maps, pixels

Sent = list[tuple[int, Signal]]  # which nodes get which signals


@reached.of(Affine, Pointwise, Pixelwise, Lrn, Identity, Concat, Binary)
@needed.of(Affine, Pointwise, Pixelwise, Lrn, Identity, Concat, Binary)
def _still(rule: Rule, boxes: Boxes, *_: Any) -> Boxes:
    """Boxes stay where they are."""
    return boxes


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


# Activations that torch can write over their input: new memory for their result would cost more
# than the activation.
_INPLACE = (
    F.celu, F.elu, F.hardsigmoid, F.hardswish, F.hardtanh, F.leaky_relu, F.mish, F.relu6, F.selu,
    F.silu,
)  # fmt: skip


# --- scale and shift ------------------------------------------------------------------------------


def affine(x: Tensor, rule: Affine) -> Tensor:
    """The rule on maps [n,C,h,w]."""
    scale, shift = rule.scale.expand(x.shape[1]), rule.shift.expand(x.shape[1])
    return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


@whole.of(Affine)
def _scaled(rule: Affine, step: Step, x: Tensor) -> Tensor:
    return affine(x, rule)


@each_pixel.of(Affine)
def _scaled_pixels(rule: Affine, step: Step, x: Tensor) -> Tensor:
    return as_pixels(affine(as_row(x), rule))


@below.of(Affine)
def _scaled_signal(rule: Affine, batch: Batch, node: Node, signal: Signal) -> Sent:
    return [(node.inputs[0], signal.scaled(rule.scale))]


finishes.of(Affine)(lambda rule: True)

BATCH_NORM = Naming("batch normalisation", "per channel", "scaling", "by the same scale")


@words.of(Affine)
def _scaling(rule: Affine, node: Node) -> Naming:
    if "batch_norm" in node.target:
        return BATCH_NORM
    return Naming("scale and shift", "per channel", "scaling", "by the same scale")


# --- functions of numbers and of pixels -----------------------------------------------------------


@whole.of(Pointwise, Pixelwise)
def _applied(rule: Pointwise | Pixelwise, step: Step, x: Tensor) -> Tensor:
    return rule.function(x)


@each_pixel.of(Pointwise, Pixelwise)
def _applied_to_pixels(rule: Pointwise | Pixelwise, step: Step, x: Tensor) -> Tensor:
    return as_pixels(rule.function(as_row(x)))


@looks_back.of(Pointwise, Pixelwise)
def _by_gradient(rule: Pointwise | Pixelwise, manner: Manner) -> bool:
    return not manner.rectifies(rule)


@below.of(Pointwise)
def _below_function(rule: Pointwise, batch: Batch, node: Node, signal: Signal) -> Sent:
    if batch.manner.rectifies(rule):
        return [(node.inputs[0], _cast_back(rule, signal.rectified()))]
    sent = times_derivative(batch, node, rule.function, signal)
    return [(node.inputs[0], _cast_back(rule, sent))]


def _cast_back(rule: Pointwise | Pixelwise, signal: Signal) -> Signal:
    """The signal in the dtype of the maps below, where a chain of calls casts them."""
    chain = rule.function
    return signal.cast(chain.source.dtype) if isinstance(chain, Chain) else signal


def times_derivative(batch: Batch, node: Node, function: Any, signal: Signal) -> Signal:
    """Below a function of each element by itself."""
    observed = batch.observed
    derivative = observed.once(node, lambda: _derivative(function, observed.inputs[node.index]))
    if isinstance(signal, Points):
        return replace(signal, values=signal.values * batch.at_points(derivative, signal))
    signal = signal.on_the_map(derivative.shape[1:3])
    return replace(signal, data=signal.data * batch.under_windows(derivative, signal))


def _derivative(function: Any, maps: Tensor) -> Tensor:
    """The derivative of a pointwise function at every element, as pixels."""
    with torch.enable_grad():
        source = maps.detach().requires_grad_()
        value = function(source.clone())
        (slope,) = torch.autograd.grad(value, source, torch.ones_like(value))
    return pixels(slope)


@below.of(Pixelwise)
def _below_pixels(rule: Pixelwise, batch: Batch, node: Node, signal: Signal) -> Sent:
    maps = batch.observed.inputs[node.index]
    picked = batch.observed.once(node, lambda: _picked(rule, maps))
    if picked is not None:
        sent = signal.into_channels(picked, maps.shape[1])
        return [(node.inputs[0], _cast_back(rule, sent))]
    return [(node.inputs[0], _through(rule.function, batch, node, signal))]


def _through(function: Any, batch: Batch, node: Node, signal: Signal) -> Signal:
    """Below a function of pixels, by its gradient at the forward point."""
    maps = batch.observed.inputs[node.index]
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    with torch.enable_grad():
        source = as_maps(batch.under_windows(pixels(maps), signal)).requires_grad_()
        value = function(source.clone())
        (sent,) = torch.autograd.grad(value, source, as_maps(signal.data))
    return replace(signal, data=pixels(sent))


def _picked(rule: Pixelwise, maps: Tensor) -> Ints | None:
    """Which map below each map above is a copy of, where the rule shuffles or slices; else None."""
    if not isinstance(rule.function, Chain) or not rule.function.only_moves:
        return None
    # On the host, where nothing is waited for, unless it needs an index that is on the device.
    device = maps.device if rule.function.holds_tensors else "cpu"
    numbered = torch.arange(maps.shape[1], device=device).view(1, -1, 1, 1)
    picked = rule.function(numbered)[0, :, 0, 0].cpu().numpy()
    return picked if len(np.unique(picked)) == len(picked) else None


# --- contrast normalisation -----------------------------------------------------------------------


def _normalised(rule: Lrn, x: Tensor) -> Tensor:
    return ops.local_response_norm(x, rule.size, rule.alpha, rule.beta, rule.k)


@whole.of(Lrn)
def _normalised_maps(rule: Lrn, step: Step, x: Tensor) -> Tensor:
    return _normalised(rule, x)


@each_pixel.of(Lrn)
def _normalised_pixels(rule: Lrn, step: Step, x: Tensor) -> Tensor:
    return as_pixels(_normalised(rule, as_row(x)))


@looks_back.of(Lrn)
def _contrast_by_gradient(rule: Lrn, manner: Manner) -> bool:
    return manner.rule == "gradient" or manner.norm == "gradient"


@below.of(Lrn)
def _below_contrast(rule: Lrn, batch: Batch, node: Node, signal: Signal) -> Sent:
    if batch.manner.uses_forward_values(rule):
        signal = _through(lambda x: _normalised(rule, x), batch, node, signal)
    return [(node.inputs[0], signal)]


@words.of(Lrn)
def _contrast(rule: Lrn, node: Node) -> Naming:
    across = f"across {rule.size} maps"
    return Naming("contrast normalisation", across, "passing on", "the signal as it is")


# --- nothing --------------------------------------------------------------------------------------


@below.of(Identity)
def _handed_on(rule: Identity, batch: Batch, node: Node, signal: Signal) -> Sent:
    return [(node.inputs[0], signal)]


@words.of(Identity)
def _nothing(rule: Identity, node: Node) -> Naming:
    return Naming("identity", "passes on what it gets", "identity", "")
