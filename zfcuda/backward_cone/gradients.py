"""One step down through what the deconvnet has no rule for: its gradient at the forward point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zfcuda import ops
from zfcuda.backward_cone.batch import Batch
from zfcuda.backward_cone.signals import Ints, Points, Signal, as_maps, pixels
from zfcuda.graph.nodes import Node
from zfcuda.graph.rules import Lrn, Pixelwise


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


def below_pixels(batch: Batch, node: Node, rule: Lrn | Pixelwise, signal: Signal) -> Signal:
    """Below what works on each pixel by itself, all its channels together."""
    maps = batch.observed.inputs[node.index]
    if isinstance(rule, Pixelwise):
        picked = batch.observed.once(node, lambda: _picked(rule, maps))
        if picked is not None:
            return signal.into_channels(picked, maps.shape[1])
    signal = signal.as_windows(node.shape[0]).on_the_map(node.shape[1:])
    with torch.enable_grad():
        source = as_maps(batch.under_windows(pixels(maps), signal)).requires_grad_()
        if isinstance(rule, Lrn):
            value = ops.local_response_norm(source, rule.size, rule.alpha, rule.beta, rule.k)
        else:
            value = rule.function(source.clone())
        (below,) = torch.autograd.grad(value, source, as_maps(signal.data))
    return replace(signal, data=pixels(below))


def _picked(rule: Pixelwise, maps: Tensor) -> Ints | None:
    """Which map below each map above is a copy of, where the rule shuffles or slices; else None."""
    count = maps.shape[1]
    numbered = torch.arange(count, dtype=maps.dtype, device=maps.device).view(1, -1, 1, 1)
    picked = rule.function(numbered)[0, :, 0, 0].nan_to_num().long().clamp(0, count - 1)
    sample = torch.randn(1, count, 2, 2, dtype=maps.dtype, generator=torch.Generator())
    sample = sample.to(maps.device)
    same = torch.equal(rule.function(sample), sample[:, picked])
    return picked.cpu().numpy() if same and len(picked.unique()) == len(picked) else None
