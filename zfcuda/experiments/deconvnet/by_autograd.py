"""Units carried down by autograd: a forward pass under the deconvnet's rules, and a backward pass
for every unit. It takes any model whose calls autograd follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from zfcuda.cones.descent import Projected
from zfcuda.experiments.deconvnet.request import (
    WHOLE,
    Carried,
    CarriedListed,
    Given,
    Request,
    Requests,
    Seed,
    activations_of,
)
from zfcuda.inference.deconvnet_rules import calls_left_to_gradient
from zfcuda.inference.interception import Interception
from zfcuda.inference.passes import feature_maps, layer_outputs, spans


def carry_by_autograd(
    model: nn.Module, x: Tensor, requests: Requests, limit: int, advance: Callable[[int], Any]
) -> tuple[dict[str, Carried], list[str]]:
    """The requested units, as whole pictures, and the calls that were left to their gradient.

    Args:
        x: [N,C,H,W].
        limit: bytes that the graph of one batch of images may hold.
        advance: called with the number of images that a layer is done with.

    Raises:
        RuntimeError: the model did not call a layer, cuts its graph below it, or recomputes in
            backward.
    """
    common = next(iter(requests.values()))
    last = [*requests][-1]
    parts: dict[str, list[Carried]] = {layer: [] for layer in requests}
    left: list[str] = []

    def run(images: slice, measure: bool = False) -> Interception:
        source = x[images].detach().clone().requires_grad_()
        rules = common.rules(measure)
        with rules.told_by(model) if measure else nullcontext():
            outputs = _outputs(model, source, [*requests], rules)
        for layer, request in requests.items():
            maps = outputs[layer]
            with _naming_quantised(model, layer):
                if measure:
                    unruled = calls_left_to_gradient(maps, source)
                    left.extend(unruled if request.rule == "deconv" else ())
                places = request.choice.choose(maps.detach(), layer, images, len(x))
                parts[layer].append(
                    _down_by_autograd(maps, source, layer, places, request.seed, layer == last)
                )
            advance(len(source))
        return rules

    with torch.enable_grad():
        # Backward adds about half of what the forward pass keeps.
        needed = run(slice(0, 1), measure=True).total_bytes * 3 // 2
        for images in spans(1, len(x), max(1, limit // max(1, needed))):
            run(images)
    return {layer: Carried.joined(parts[layer]) for layer in requests}, left


def carry_listed_by_autograd(
    model: nn.Module, x: Tensor, listed: Mapping[str, np.ndarray], limit: int
) -> tuple[dict[str, CarriedListed], list[str]]:
    """:func:`carry_by_autograd` for units int64 [P,4], (image, channel, row, column),
    from their own values; image by image, since each has units of its own."""
    carried = {layer: CarriedListed.none_yet(x, len(units)) for layer, units in listed.items()}
    left: list[str] = []
    for image in range(len(x)):
        here = {layer: np.flatnonzero(units[:, 0] == image) for layer, units in listed.items()}
        requests = {
            layer: Request(Given(torch.from_numpy(listed[layer][own, 1:]), vectors_only=False))
            for layer, own in here.items()
            if len(own)
        }
        if not requests:
            continue
        one = x[image : image + 1]
        parts, left = carry_by_autograd(model, one, requests, limit, lambda images: None)
        for layer, part in parts.items():
            carried[layer].fill(here[layer], part.activations[0], part.projected)
    return carried, left


@contextmanager
def _naming_quantised(model: nn.Module, layer: str) -> Iterator[None]:
    """Errors that quantised modules are the cause of, in a sentence about them."""
    try:
        yield
    except RuntimeError as error:
        for name, module in model.named_modules():
            origin = type(module).__module__
            if origin.startswith("torch.ao.nn.") and ".quantized.modules" in origin:
                raise RuntimeError(
                    f"layer {layer!r} lies behind quantised modules, such as {name!r} "
                    f"({type(module).__name__}), which no signal passes; project the network as it "
                    "was before it was quantised"
                ) from error
        raise


def _outputs(
    model: nn.Module, source: Tensor, layers: list[str], rules: Interception
) -> dict[str, Tensor]:
    """The layers' outputs as functions of ``source``; cloned, since a later call may be in
    place."""

    def receive(layer: str, output: Any) -> Tensor:
        return feature_maps(output, layer, len(source)).clone()

    # Weights made under inference_mode cannot take part in a graph; copies of them can.
    weights = chain(model.named_parameters(), model.named_buffers())
    copies = {name: weight.clone() for name, weight in weights if weight.is_inference()}
    with layer_outputs(model, layers, receive) as outputs, rules:
        batch = source.clone()  # a model may work in place on its input; a leaf forbids that
        if copies:
            torch.func.functional_call(model, copies, (batch,))
        else:
            model(batch)
    return outputs


def _down_by_autograd(
    maps: Tensor, source: Tensor, layer: str, places: Tensor, seed: Seed, last: bool
) -> Carried:
    """The units ``places`` [n,k,3] of ``maps`` [n,C,h,w], carried down to ``source``; ``last`` if
    nothing else will be."""
    values, k = maps.detach(), places.shape[1]
    signals = [
        _gradient(
            maps, source, layer, _start(values, places[:, unit], seed),
            keep=not (last and unit == k - 1),
        )
        for unit in range(k)
    ]  # fmt: skip
    box = (0, 0, *source.shape[2:])
    projected = [Projected(box, signal[image]) for image in range(len(maps)) for signal in signals]
    return Carried(places, activations_of(values, places), projected, tuple(maps.shape[1:]))


def _start(values: Tensor, places: Tensor, seed: Seed) -> Tensor:
    """The signal that begins at one unit ``places`` [n,3] of each image, zero everywhere else."""
    start = torch.zeros_like(values)
    for image, (channel, row, column) in enumerate(places.tolist()):
        at = (image, channel) if row == WHOLE else (image, channel, row, column)
        start[at] = values[at] if seed == "activation" else seed
    return start


def _gradient(maps: Tensor, source: Tensor, layer: str, start: Tensor, keep: bool) -> Tensor:
    """What arrives at ``source`` of the signal ``start``; ``keep`` the graph for other signals."""
    signal = None
    if maps.requires_grad:
        try:
            (signal,) = torch.autograd.grad(
                maps, source, start, retain_graph=keep, allow_unused=True
            )
        except CheckpointError as error:
            raise RuntimeError(
                "the model recomputes calls during backward (torch.utils.checkpoint), where "
                "they cannot be followed; switch its checkpointing off"
            ) from error
    if signal is None:
        raise RuntimeError(
            f"the output of layer {layer!r} does not depend on x by differentiable calls "
            "(is there a detach or no_grad inside the model?)"
        )
    return signal
