"""Projections of units to the input: the deconvnet (Zeiler & Fergus 2014, section 2.1)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from zfcuda import backward_cone
from zfcuda._running import (
    check_input,
    feature_maps,
    find_layers,
    layer_outputs,
    memory_limit,
    progress_bar,
    require_called,
    spans,
    to_result,
    undisturbed,
)
from zfcuda._units import (
    WHOLE,
    Channel,
    Choice,
    Given,
    OneChoice,
    Position,
    Units,
    activations_of,
    parse,
)
from zfcuda.backward_cone import Manner, Projected
from zfcuda.graph import Graph, Untraceable, trace
from zfcuda.interception import Interception, calls_left_to_gradient, deconvnet_rules
from zfcuda.results import Patches, Projections

_log = logging.getLogger(__name__)

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
    request = _Request(OneChoice(channel, position, k), seed, overlap, rule, norm)
    (name,) = _layers(model, x, [layer])
    found, left = _project(model, x, {name: request}, max_memory, progress)
    _warn(left)
    pictures = _pictures(found[name].projected, x).unflatten(0, (len(x), k))
    return pictures[:, 0] if k == 1 else pictures


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
    request = _Request(OneChoice(channel, position, k), seed, overlap, rule, norm)
    names = _layers(model, x, layers)
    found, left = _project(model, x, dict.fromkeys(names, request), max_memory, progress)
    _warn(left)
    columns = [
        f"image {image}" if k == 1 else f"image {image}, unit {unit + 1}"
        for image in range(len(x))
        for unit in range(k)
    ]
    return Projections(
        layers=tuple(names),
        columns=tuple(columns),
        units={name: found[name].places.flatten(0, 1).cpu() for name in names},
        activations={name: to_result(found[name].activations.flatten()) for name in names},
        projections={name: to_result(_pictures(found[name].projected, x)) for name in names},
        images=to_result(x).repeat_interleave(k, 0),
    )


@torch.inference_mode(False)
def project(
    model: nn.Module,
    x: Tensor,
    layer: str | Sequence[str],
    units: Units | Mapping[str, Units] = "strongest",
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Patches:
    """What many units saw: :func:`deconv` of all of them after one forward pass, each as the patch
    of the image that it depends on.

    Only what a unit depends on is computed. A model that cannot be followed as a graph, or has
    calls on the way down that let everything depend on everything, takes :func:`deconv`'s other
    path, a whole backward pass for every unit; the patches are whole pictures then.

    Args:
        model, x, seed, overlap, rule, norm, progress: as :func:`deconv`.
        layer: a name of ``model.named_modules()``, or several.
        units: which units of every image and layer (or, by layer, a mapping):

            - "strongest": of every map its strongest;
            - "top-9" or ("top", 9): of the 9 maps that hold the largest, their strongest;
            - (channel, row, column), or a list of these, or such a list for each image;
            - in a layer of vectors, such as the classes: a channel (channel,) or a list of them;
            - ("map", channel) or ("map", channels): whole maps, every element its own seed.
        max_memory: bytes that the activations of one batch of images, and the signals of one batch
            of units, may take; by default as :func:`deconv`.

    Returns:
        N*k units a layer: layer by layer, image by image, in the order asked for.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`deconv`.
    """
    names = _layers(model, x, layer)
    chosen = _by_layer(units, names)
    requests = {name: _Request(parse(chosen[name]), seed, overlap, rule, norm) for name in names}
    found, left = _project(model, x, requests, max_memory, progress)
    _warn(left)
    projected = [p for name in names for p in found[name].projected]
    return Patches(
        layers=tuple(names),
        layer=_numbered([found[name].places.shape[:2].numel() for name in names]),
        image=torch.cat([_numbered([found[name].places.shape[1]] * len(x)) for name in names]),
        units=torch.cat([found[name].places.flatten(0, 1) for name in names]).cpu(),
        activations=to_result(torch.cat([found[name].activations.flatten() for name in names])),
        boxes=torch.tensor([p.box for p in projected]),
        values=_end_to_end([p.patch for p in projected]),
        images=to_result(x),
    )


@torch.inference_mode(False)
def project_listed(
    model: nn.Module, x: Tensor, units: Mapping[str, Tensor], max_memory: int | None = None
) -> dict[str, tuple[Tensor, list[Projected]]]:
    """:func:`project` for experiments whose images have units of their own, not equally many.

    One forward pass; a layer's units go down together, whichever image they are of.

    Args:
        model, x, max_memory: as :func:`project`.
        units: by layer int64 [P,4], (image, channel, row, column), all on the maps.

    Returns:
        By layer the units' values [P] in this pass, and their P projections.
    """
    names = _layers(model, x, [*units])
    listed = {name: units[name].cpu().numpy() for name in names}
    limit = memory_limit(max_memory, x.device)
    with undisturbed(model):
        graph, on_cones = _graph(model, x, names)
        found: dict[str, tuple[Tensor, list[Projected]]] = {}
        left: list[str] = []
        own = {name: listed.pop(name) for name in on_cones}
        if own:
            with torch.no_grad():
                found, left = _listed_on_cones(graph, x.detach(), own, limit)
        if listed:
            more, other_left = _listed_by_autograd(model, x, listed, limit)
            found, left = found | more, left + other_left
    _warn(left)
    return found


def _layers(model: nn.Module, x: Tensor, layers: str | Sequence[str]) -> list[str]:
    """The layers' names, checked together with what they are to be found in."""
    check_input(model, x)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError("the calls of a TorchScript model cannot be followed; pass the eager model")
    return list(find_layers(model, layers))


def _by_layer(units: Any, names: list[str]) -> dict[str, Units]:
    if not isinstance(units, Mapping):
        return dict.fromkeys(names, units)
    if {*units} != {*names}:
        raise ValueError(f"units name the layers {list(units)}, layer names {names}")
    return {**units}


def _numbered(counts: Sequence[int]) -> Tensor:
    """0 so many times, then 1 so many times, ..."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _end_to_end(patches: list[Tensor]) -> Tensor:
    """The elements of all patches as results hold them, one patch after the other."""
    dtype = to_result(patches[0].new_empty(0)).dtype
    values = torch.empty(sum(patch.numel() for patch in patches), dtype=dtype)
    start = 0
    for patch in patches:
        values[start : start + patch.numel()].view(patch.shape).copy_(patch)
        start += patch.numel()
    return values


def _pictures(projected: list[Projected], x: Tensor) -> Tensor:
    """[V,C,H,W]: every patch in its place on nothing."""
    pictures = x.new_zeros(len(projected), *x.shape[1:])
    for picture, unit in zip(pictures, projected, strict=True):
        y0, x0, y1, x1 = unit.box
        picture[:, y0:y1, x0:x1] = unit.patch
    return pictures


@dataclass(frozen=True)
class _Request:
    """Which units, and how to carry them down; checks what needs no model."""

    choice: Choice
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
        if not (isinstance(self.seed, str) and self.seed == "activation") and (
            isinstance(self.seed, bool) or not isinstance(self.seed, Real)
        ):
            raise ValueError(f"seed must be 'activation' or a number, got {self.seed!r}")

    @property
    def manner(self) -> Manner:
        return Manner(self.overlap, self.rule, self.norm)

    def rules(self, measure: bool) -> Interception:
        if self.rule == "gradient":
            return Interception({}, measure)
        return deconvnet_rules(self.overlap, self.norm, measure)


Requests = Mapping[str, _Request]  # by layer; they differ in their choice only


@dataclass(frozen=True)
class _Found:
    """Units of one layer: places [n,k,3], activations [n,k], n*k projections."""

    places: Tensor
    activations: Tensor
    projected: list[Projected]


def _joined(parts: list[_Found]) -> _Found:
    return _Found(
        torch.cat([part.places for part in parts]),
        torch.cat([part.activations for part in parts]),
        [projected for part in parts for projected in part.projected],
    )


def _project(
    model: nn.Module, x: Tensor, requests: Requests, max_memory: int | None, progress: bool
) -> tuple[dict[str, _Found], list[str]]:
    """The requested units of every layer, and the calls that were left to their gradient."""
    limit = memory_limit(max_memory, x.device)
    with (
        undisturbed(model),
        progress_bar(len(x) * len(requests), progress, "projections") as advance,
    ):
        graph, on_cones = _graph(model, x, [*requests])
        found: dict[str, _Found] = {}
        left: list[str] = []
        others = {layer: own for layer, own in requests.items() if layer not in on_cones}
        if on_cones:
            own = {layer: requests[layer] for layer in on_cones}
            with torch.no_grad():
                found, left = _on_cones(graph, x.detach(), own, limit, advance)
        if others:
            more, other_left = _by_autograd(model, x, others, limit, advance)
            found, left = found | more, left + other_left
        return found, left


# --- on cones -------------------------------------------------------------------------------------


def _graph(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Graph | None, list[str]]:
    """The model as a graph, and those of these layers from which cones lead down to the image."""
    try:
        graph = _traced(model, x[:1], layers)
    except Untraceable as error:
        _log.debug("projections by autograd: %s", error)
        return None, []
    on_cones = []
    for layer in layers:
        node = graph.layer(layer)
        obstacle = node and backward_cone.obstacle(graph, [node.index])
        if node is None:
            _log.debug("projection of %r by autograd: it is not in the graph", layer)
        elif obstacle is not None:
            _log.debug("projection of %r by autograd: no cone through %s", layer, obstacle.name)
        else:
            on_cones.append(layer)
    return graph, on_cones


def _traced(model: nn.Module, image: Tensor, layers: Sequence[str]) -> Graph:
    if torch.is_autocast_enabled(image.device.type):
        raise Untraceable("autocast is on")
    if any(weight.is_inference() for weight in chain(model.parameters(), model.buffers())):
        raise Untraceable("weights were made under inference_mode")
    try:
        return trace(model, backward_cone.arranged(image), layers)
    except Untraceable:  # perhaps a view that only the model's own arrangement allows
        return trace(model, image, layers)


def _on_cones(
    graph: Graph, x: Tensor, requests: Requests, limit: int, advance: Any
) -> tuple[dict[str, _Found], list[str]]:
    nodes = {layer: graph.layer(layer).index for layer in requests}
    manner = next(iter(requests.values())).manner
    parts: dict[str, list[_Found]] = {layer: [] for layer in requests}
    left: list[str] = []
    each = backward_cone.forward_bytes(graph, nodes.values(), x.element_size())
    for images in spans(0, len(x), max(1, limit // each)):
        observed = backward_cone.observe(graph, x[images], nodes.values(), manner)
        left = observed.left
        for layer, request in requests.items():
            maps = observed.outputs[nodes[layer]]
            places = request.choice.choose(maps, layer, images, len(x))
            each_image = np.repeat(np.arange(len(maps)), places.shape[1])
            rows = places.flatten(0, 1).cpu().numpy()
            projected = _down(observed, nodes[layer], each_image, rows, request.seed, limit)
            parts[layer].append(_Found(places, activations_of(maps, places), projected))
            advance(len(maps))
    return {layer: _joined(parts[layer]) for layer in requests}, left


def _listed_on_cones(
    graph: Graph, x: Tensor, listed: Mapping[str, np.ndarray], limit: int
) -> tuple[dict[str, tuple[Tensor, list[Projected]]], list[str]]:
    nodes = {layer: graph.layer(layer).index for layer in listed}
    found = {layer: _nothing(x, len(rows)) for layer, rows in listed.items()}
    left: list[str] = []
    each = backward_cone.forward_bytes(graph, nodes.values(), x.element_size())
    for images in spans(0, len(x), max(1, limit // each)):
        observed = backward_cone.observe(graph, x[images], nodes.values(), Manner())
        left = observed.left
        for layer, rows in listed.items():
            here = np.flatnonzero((rows[:, 0] >= images.start) & (rows[:, 0] < images.stop))
            if not len(here):
                continue
            image, places = rows[here, 0] - images.start, rows[here, 1:]
            at = tuple(torch.from_numpy(i).to(x.device) for i in (image, *places.T))
            activations, projected = found[layer]
            activations[here] = observed.outputs[nodes[layer]][at]
            down = _down(observed, nodes[layer], image, places, "activation", limit)
            for row, patch in zip(here, down, strict=True):
                projected[row] = patch
    return found, left


def _nothing(x: Tensor, count: int) -> tuple[Tensor, list[Projected]]:
    nowhere = Projected((0, 0, 0, 0), x.new_empty(x.shape[1], 0, 0))
    return x.new_zeros(count), [nowhere] * count


def _down(
    observed: backward_cone.Observed,
    node: int,
    images: np.ndarray,
    places: np.ndarray,
    seed: Seed,
    limit: int,
) -> list[Projected]:
    """The units ``places`` [P,3] of these ``images`` [P], carried down."""
    nowhere = Projected((0, 0, 0, 0), observed.outputs[node].new_empty(_channels(observed), 0, 0))
    projected = [nowhere] * len(places)
    start = None if seed == "activation" else float(seed)
    for unit, patch in backward_cone.descend(observed, node, images, places, start, limit):
        projected[unit] = patch
    return projected


def _channels(observed: backward_cone.Observed) -> int:
    return observed.graph.nodes[0].shape[0]


# --- by autograd ----------------------------------------------------------------------------------


def _by_autograd(
    model: nn.Module, x: Tensor, requests: Requests, limit: int, advance: Any
) -> tuple[dict[str, _Found], list[str]]:
    """A forward pass under the deconvnet's rules, and a backward pass for every unit."""
    layers = [*requests]
    parts: dict[str, list[_Found]] = {layer: [] for layer in layers}
    left: list[str] = []

    def run(images: slice, measure: bool = False) -> Interception:
        source = x[images].detach().clone().requires_grad_()
        some = requests[layers[0]]
        rules = some.rules(measure)
        found = _outputs(model, source, layers, rules)
        for i, (layer, request) in enumerate(requests.items()):
            if measure and request.rule == "deconv":
                left.extend(calls_left_to_gradient(found[layer], source))
            places = request.choice.choose(found[layer].detach(), layer, images, len(x))
            last = i == len(layers) - 1
            parts[layer].append(_descend(found[layer], source, layer, places, request.seed, last))
            advance(len(source))
        return rules

    with torch.enable_grad():
        # Backward adds about half of what the forward pass keeps.
        needed = run(slice(0, 1), measure=True).total_bytes * 3 // 2
        for images in spans(1, len(x), max(1, limit // max(1, needed))):
            run(images)
    return {layer: _joined(parts[layer]) for layer in layers}, left


def _listed_by_autograd(
    model: nn.Module, x: Tensor, listed: Mapping[str, np.ndarray], limit: int
) -> tuple[dict[str, tuple[Tensor, list[Projected]]], list[str]]:
    """Image by image, since each has units of its own."""
    found = {layer: _nothing(x, len(rows)) for layer, rows in listed.items()}
    left: list[str] = []
    for image in range(len(x)):
        here = {layer: np.flatnonzero(rows[:, 0] == image) for layer, rows in listed.items()}
        requests = {
            layer: _Request(
                Given(torch.from_numpy(listed[layer][own, 1:]), False),
                "activation", "sum", "deconv", "identity",
            )
            for layer, own in here.items()
            if len(own)
        }  # fmt: skip
        if not requests:
            continue
        one = x[image : image + 1]
        parts, left = _by_autograd(model, one, requests, limit, lambda steps: None)
        for layer, part in parts.items():
            activations, projected = found[layer]
            activations[here[layer]] = part.activations[0]
            for row, patch in zip(here[layer], part.projected, strict=True):
                projected[row] = patch
    return found, left


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
    maps: Tensor, source: Tensor, layer: str, places: Tensor, seed: Seed, last: bool
) -> _Found:
    """Carry the units ``places`` [n,k,3] of ``maps`` [n,C,h,w] down to ``source``."""
    values, k = maps.detach(), places.shape[1]
    signals = []
    for unit in range(k):
        start = _start(values, places[:, unit], seed)
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
    box = (0, 0, *source.shape[2:])
    projected = [Projected(box, signal[image]) for image in range(len(maps)) for signal in signals]
    return _Found(places, activations_of(values, places), projected)


def _start(values: Tensor, places: Tensor, seed: Seed) -> Tensor:
    """The signal that begins at one unit ``places`` [n,3] of each image, zero everywhere else."""
    start = torch.zeros_like(values)
    for image, (channel, row, column) in enumerate(places.tolist()):
        at = (image, channel) if row == WHOLE else (image, channel, row, column)
        start[at] = values[at] if seed == "activation" else seed
    return start


def _warn(left: list[str]) -> None:
    if left:
        names = ", ".join(dict.fromkeys(left))
        warnings.warn(
            f"the deconvnet has no rule for {names}; their gradient at the forward point is used",
            stacklevel=4,  # this function, deconv, its decorator, the caller
        )
