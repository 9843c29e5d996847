"""Projections of units to the input: the deconvnet (Zeiler & Fergus 2014, section 2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from zfcuda._running import (
    check_input,
    feature_maps,
    find_layers,
    is_int,
    layer_outputs,
    memory_limit,
    per_image,
    progress_bar,
    require_called,
    spans,
    to_result,
    undisturbed,
)
from zfcuda.interception import Interception, calls_left_to_gradient, deconvnet_rules
from zfcuda.results import Projections

Channel = int | Sequence[int] | Tensor | None
Position = Literal["max"] | tuple[int, int]
Seed = Literal["activation"] | float
Overlap = Literal["sum", "overwrite"]
Rule = Literal["deconv", "gradient"]
Norm = Literal["identity", "gradient"]


@torch.inference_mode(False)  # nothing made here is an inference tensor
def deconv(
    model: nn.Module,
    x: Tensor,
    layer: str,
    channel: Channel = None,
    position: Position = "max",
    k: int = 1,
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Tensor:
    """What a unit saw: its activation carried down to the input by the deconvnet.

    The model is any CNN; the calls it makes are followed at run time. It runs in eval mode and is
    left as it was. Going down, convolution, pooling by average, linear layers, concatenation and
    sums are transposed, ReLU, ReLU6 and LeakyReLU rectify the signal, max-pooling is undone with
    the switches of the forward pass, batch norm scales, contrast normalisation lets the signal
    through. Any other nonlinearity or product of activations uses its gradient at the forward
    point, with one warning that names it.

    Args:
        model: takes ``x``; what it returns does not matter.
        x: [N,C,H,W], on the model's device and of its dtype. NaN is allowed and propagates.
        layer: a name of ``model.named_modules()``. Its own output is meant, before any later
            in-place call; of a module called several times, the last call. Maps [N,C,H,W], or
            vectors [N,F] taken as F maps of one element.
        channel: the map, one for all images or one per image; None takes the strongest, the one
            that holds the single largest activation.
        position: the unit (row, column) in the map, or "max" for its strongest.
        k: how many units: the k strongest maps when ``channel`` is None, otherwise the k strongest
            positions of that map.
        seed: the signal to start from, the unit's own activation (sign included) or a number.
        overlap: where windows of max-pooling overlap, "sum" adds what they send to one place (the
            transpose), "overwrite" lets the last window in raster order win.
        rule: "deconv", or "gradient" for the plain gradient of the unit times the seed (``norm``
            then has no effect).
        norm: contrast normalisation as "identity" or its "gradient".
        max_memory: bytes that the activations of one batch of images may take; by default half of
            what is free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.

    Returns:
        [N,C,H,W] in x's dtype and device; [N,k,C,H,W], strongest first, when k > 1. Never requires
        grad.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
        RuntimeError: the model did not call the layer, cuts its graph below it, or recomputes in
            backward.
    """
    request = _Request(channel, position, k, seed, overlap, rule, norm)
    units, left = _project(model, x, [layer], request, max_memory, progress)
    _warn(left)
    projections = units[layer].projections
    return projections[:, 0] if k == 1 else projections


@torch.inference_mode(False)
def projections(
    model: nn.Module,
    x: Tensor,
    layers: str | Sequence[str],
    channel: Channel = None,
    position: Position = "max",
    k: int = 1,
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Projections:
    """:func:`deconv` for several layers in one forward pass, with the units and their activations.

    Arguments and errors are :func:`deconv`'s. The result has N*k columns, image by image.
    """
    request = _Request(channel, position, k, seed, overlap, rule, norm)
    names = list(find_layers(model, layers))
    units, left = _project(model, x, names, request, max_memory, progress)
    _warn(left)
    columns = [
        f"image {image}" if k == 1 else f"image {image}, unit {unit + 1}"
        for image in range(len(x))
        for unit in range(k)
    ]
    return Projections(
        layers=tuple(names),
        columns=tuple(columns),
        units={name: units[name].places.flatten(0, 1).cpu() for name in names},
        activations={name: to_result(units[name].activations.flatten()) for name in names},
        projections={name: to_result(units[name].projections.flatten(0, 1)) for name in names},
        images=to_result(x).repeat_interleave(k, 0),
    )


@dataclass(frozen=True)
class _Request:
    """Which units, and how to carry them down; checks what needs no model."""

    channel: Channel
    position: Position
    k: int
    seed: Seed
    overlap: Overlap
    rule: Rule
    norm: Norm

    def __post_init__(self) -> None:
        for name, valid in {
            "overlap": ("sum", "overwrite"),
            "rule": ("deconv", "gradient"),
            "norm": ("identity", "gradient"),
        }.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"{name} must be {valid[0]!r} or {valid[1]!r}, got {getattr(self, name)!r}"
                )
        if self.rule == "gradient" and self.overlap == "overwrite":
            raise ValueError("overlap='overwrite' needs rule='deconv': a gradient always sums")
        if not is_int(self.k) or self.k < 1:
            raise ValueError(f"k must be a positive int, got {self.k!r}")
        if not (isinstance(self.seed, str) and self.seed == "activation") and (
            isinstance(self.seed, bool) or not isinstance(self.seed, Real)
        ):
            raise ValueError(f"seed must be 'activation' or a number, got {self.seed!r}")
        if not isinstance(self.position, str) or self.position != "max":
            valid = isinstance(self.position, tuple | list) and len(self.position) == 2
            if not valid or not all(map(is_int, self.position)):
                raise ValueError(f"position must be 'max' or (row, column), got {self.position!r}")
            if self.channel is not None and self.k > 1:
                raise ValueError(
                    f"channel and position name one unit, but k is {self.k}; leave one of them out"
                )

    def rules(self, measure: bool) -> Interception:
        if self.rule == "gradient":
            return Interception({}, measure)
        return deconvnet_rules(self.overlap, self.norm, measure)

    def choose(self, maps: Tensor, layer: str, images: slice, total: int) -> Tensor:
        """The units (channel, row, column) [n,k,3] among the layer's ``maps`` [n,C,h,w] of these
        ``images`` out of ``total``."""
        n, count, height, width = maps.shape
        flat = maps.flatten(2)
        image = torch.arange(n, device=maps.device)[:, None]
        candidates = count if self.channel is None else height * width
        if self.k > candidates:
            of = "maps" if self.channel is None else "positions in a map"
            raise ValueError(f"k is {self.k}, but layer {layer!r} has only {candidates} {of}")
        if self.channel is None:
            chosen = flat.amax(2).sort(descending=True, stable=True).indices[:, : self.k]
            places = flat[image, chosen].argmax(2)
        else:
            channels = per_image(self.channel, total, count, f"channel in layer {layer!r}")
            chosen = channels[images].to(maps.device)[:, None].expand(n, self.k)
            own = flat[image, chosen[:, :1]][:, 0]
            places = own.sort(descending=True, stable=True).indices[:, : self.k]
        if not isinstance(self.position, str) or self.position != "max":
            row, column = self.position
            if not (0 <= row < height and 0 <= column < width):
                raise ValueError(
                    f"position must be within the {height}x{width} maps of layer {layer!r}, "
                    f"got {self.position!r}"
                )
            places = torch.full_like(chosen, row * width + column)
        return torch.stack([chosen, places // width, places % width], dim=-1)


@dataclass(frozen=True)
class _Units:
    """Units of one layer: places [n,k,3], activations [n,k], projections [n,k,C,H,W]."""

    places: Tensor
    activations: Tensor
    projections: Tensor


def _project(
    model: nn.Module,
    x: Tensor,
    layers: list[str],
    request: _Request,
    max_memory: int | None,
    progress: bool,
) -> tuple[dict[str, _Units], list[str]]:
    """The requested units of every layer, and the calls that were left to their gradient."""
    check_input(model, x)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("the calls of a TorchScript model cannot be followed; pass the eager model")
    find_layers(model, layers)
    limit = memory_limit(max_memory, x.device)
    parts: dict[str, list[_Units]] = {layer: [] for layer in layers}
    left: list[str] = []
    with (
        undisturbed(model),
        torch.enable_grad(),
        progress_bar(len(x) * len(layers) * request.k, progress, "projections") as advance,
    ):

        def run(images: slice, measure: bool = False) -> Interception:
            source = x[images].detach().clone().requires_grad_()
            rules = request.rules(measure)
            found = _outputs(model, source, layers, rules)
            for i, layer in enumerate(layers):
                if measure and request.rule == "deconv":
                    left.extend(calls_left_to_gradient(found[layer], source))
                places = request.choose(found[layer].detach(), layer, images, len(x))
                last = i == len(layers) - 1
                parts[layer].append(
                    _descend(found[layer], source, layer, places, request.seed, last, advance)
                )
            return rules

        # Backward adds about half of what the forward pass keeps.
        needed = run(slice(0, 1), measure=True).total_bytes * 3 // 2
        for images in spans(1, len(x), max(1, limit // max(1, needed))):
            run(images)
    return {layer: _joined(parts[layer]) for layer in layers}, left


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
    with layer_outputs(model, layers, receive) as found, rules:
        batch = source.clone()  # a model may work in place on its input; a leaf forbids that
        if copies:
            torch.func.functional_call(model, copies, (batch,))
        else:
            model(batch)
    require_called(layers, found)
    return found


def _descend(
    maps: Tensor,
    source: Tensor,
    layer: str,
    places: Tensor,
    seed: Seed,
    last: bool,
    advance: Any,
) -> _Units:
    """Carry the units ``places`` [n,k,3] of ``maps`` [n,C,h,w] down to ``source``."""
    values, k = maps.detach(), places.shape[1]
    image = torch.arange(len(maps), device=maps.device)
    activations = values[image[:, None], *places.unbind(-1)]
    signals = []
    for unit in range(k):
        start = torch.zeros_like(values)
        start[image, *places[:, unit].unbind(-1)] = (
            activations[:, unit] if seed == "activation" else seed
        )
        signal = None
        if maps.requires_grad:
            keep = not (last and unit == k - 1)
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
        signals.append(signal)
        advance(len(maps))
    return _Units(places, activations, torch.stack(signals, 1))


def _joined(parts: list[_Units]) -> _Units:
    return _Units(
        torch.cat([part.places for part in parts]),
        torch.cat([part.activations for part in parts]),
        torch.cat([part.projections for part in parts]),
    )


def _warn(left: list[str]) -> None:
    if left:
        names = ", ".join(dict.fromkeys(left))
        warnings.warn(
            f"the deconvnet has no rule for {names}; their gradient at the forward point is used",
            stacklevel=4,  # this function, deconv, its decorator, the caller
        )
