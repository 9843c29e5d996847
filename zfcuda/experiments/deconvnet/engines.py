"""Each layer's units by the engine that can carry them: cones where they lead down to the image,
autograd everywhere else."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from zfcuda.cones.descent import descend, known_taps
from zfcuda.cones.leaks import leak
from zfcuda.cones.observing import forward_bytes, observe, obstacle
from zfcuda.cones.operators.batch import Observed
from zfcuda.cones.operators.signals import Windows, at
from zfcuda.experiments.deconvnet.request import WHOLE, Carried, Choice, Listed, Seed, SeededManner
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph, as_recorded
from zfcuda.graph.tracing import trace
from zfcuda.inference.beside import stands_alone
from zfcuda.inference.checks import check_input, undisturbed, untuned
from zfcuda.inference.deconvnet_rules import calls_left_to_gradient
from zfcuda.inference.interception import Interception, fast_forward
from zfcuda.inference.layers import Layers, feature_maps, find_layers, layer_outputs
from zfcuda.inference.passes import memory_limit, progress_bar, spans
from zfcuda.ops.windows import on_host
from zfcuda.storage.files import visible

_log = logging.getLogger(__name__)
_SHOWN = 3  # modules of one class that a warning names

Part = tuple[str, Carried, list[str]]
"""A layer, units of it, and the calls that were left to their gradient."""


def checked(model: nn.Module, x: Tensor, layers: Layers) -> tuple[Tensor, list[str]]:
    """The images, and the layers' names, checked together with what they are to be found in."""
    x = check_input(model, x)
    return x, list(find_layers(model, layers))


def carry(
    model: nn.Module,
    x: Tensor,
    choices: Mapping[str, Choice],
    manner: SeededManner,
    max_memory: int | None,
    progress: bool = False,
) -> dict[str, Carried]:
    """The chosen units of every layer, for the images ``x`` [N,C,H,W]."""
    limit = memory_limit(max_memory, x.device)
    parts: dict[str, list[Carried]] = {layer: [] for layer in choices}
    left: list[str] = []
    with (
        undisturbed(model),
        progress_bar(len(x) * len(choices), progress, "projections") as advance,
    ):
        graph, reached = followed(model, x, [*choices])
        inside = {layer: choices[layer] for layer in reached}
        others = {layer: own for layer, own in choices.items() if layer not in inside}
        if others and any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):
            raise TypeError(
                f"the calls of a TorchScript model cannot be followed to {', '.join(others)}; pass "
                "the eager model"
            )
        for layer, part, unruled in chain(
            _in_cones(graph, x.detach(), inside, manner, limit, advance) if inside else (),
            _by_autograd(model, x, others, manner, limit, advance) if others else (),
        ):
            parts[layer].append(part)
            left += unruled
    if left:
        warnings.warn(
            f"the deconvnet has no rule for {visible(_listed(left))}; their gradient at the "
            "forward point is used",
            stacklevel=4,  # this function, deconv, its decorator, the caller
        )
    return {layer: Carried.joined(own) for layer, own in parts.items()}


def _listed(names: list[str]) -> str:
    """Each once; of many modules of one class (``SiLU 'a', 'b', 'c' and 5 more``) the first."""
    kinds: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        kind, _, module = name.partition(" ")
        kinds.setdefault(kind, []).extend([module] if module else [])
    shown = []
    for kind, modules in kinds.items():
        more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
        shown.append(f"{kind} {', '.join(modules[:_SHOWN])}{more}".strip())
    return ", ".join(shown)


# --- inside backward cones, where the model can be followed as a graph ----------------------------


def followed(model: nn.Module, x: Tensor, layers: Sequence[str]) -> tuple[Graph | None, list[str]]:
    """The model as a graph, and those of these layers from which cones lead down to the images
    ``x`` [N,C,H,W]."""
    try:
        graph = _traced(model, x[:1], layers)
    except Untraceable as error:
        _log.debug("projections by autograd: %s", visible(error))
        return None, []
    reached = []
    for layer in layers:
        node = graph.layer(layer)
        blocked = node and obstacle(graph, [node.index])
        if node is None:
            _log.debug("projection of %r by autograd: it is not in the graph", layer)
        elif blocked is not None:
            _log.debug(
                "projection of %r by autograd: no cone through %s", layer, visible(blocked.name)
            )
        else:
            reached.append(layer)
    if reached and (name := leak(graph, x[:1])):
        warnings.warn(
            f"projections go by autograd, since {visible(name)} changes more than its rule says",
            stacklevel=5,  # this function, carry, deconv, its decorator, the caller
        )
        return None, []
    return graph, reached


def _traced(model: nn.Module, image: Tensor, layers: Sequence[str]) -> Graph:
    if any(weight.is_inference() for weight in chain(model.parameters(), model.buffers())):
        raise Untraceable("weights were made under inference_mode")
    return trace(model, image, layers)


@torch.no_grad()
def _in_cones(
    graph: Graph,
    x: Tensor,
    choices: Mapping[str, Choice],
    manner: SeededManner,
    limit: int,
    advance: Callable[[int], Any],
) -> Iterator[Part]:
    """Units of the images ``x`` [N,C,H,W] carried down inside their backward cones, of layers from
    which these lead down to the images; ``limit``: bytes for the activations of one batch of
    images, and for one batch's signals."""
    nodes = {layer: graph.layer(layer).index for layer in choices}
    each = forward_bytes(graph, nodes.values(), x.element_size())
    for images in spans(0, len(x), max(1, limit // each)):
        with as_recorded(x.device):
            observed = observe(graph, x[images], nodes.values(), manner)
        chosen = {
            layer: choice.choose(observed.outputs[nodes[layer]], layer, images, len(x))
            for layer, choice in choices.items()
        }
        for layer, (units, taps) in _told(observed, nodes, chosen).items():
            maps = observed.outputs[nodes[layer]]
            with as_recorded(x.device):
                projected = _down(observed, nodes[layer], units, manner.seed, limit, taps)
            yield layer, Carried.of(maps, units, projected, images), observed.left
            advance(len(maps))


def _told(
    observed: Observed, nodes: Mapping[str, int], chosen: Mapping[str, Tensor]
) -> dict[str, tuple[Tensor, dict[int, np.ndarray]]]:
    """By layer the ``chosen`` units [p,4], and the taps of theirs that are known: all that the host
    must know to carry them down, with one wait for a GPU."""
    taps = {layer: known_taps(observed, nodes[layer], units) for layer, units in chosen.items()}
    told = iter(on_host([t for layer, own in chosen.items() for t in (own, *taps[layer].values())]))
    return {
        layer: (next(told), {pool: next(told).numpy() for pool in taps[layer]}) for layer in chosen
    }


def _down(
    observed: Observed,
    node: int,
    units: Tensor,
    seed: Seed,
    limit: int,
    taps: Mapping[int, np.ndarray],
) -> list[Windows]:
    """The ``units`` [p,4] of a node, carried down."""
    if not len(units):
        return []
    image, places = units[:, 0].numpy(), units[:, 1:].numpy()
    start = None if seed == "activation" else float(seed)
    with untuned(observed.outputs[node].device):
        return [*descend(observed, node, image, places, start, limit, taps)]


# --- by autograd, whose backward pass goes wherever calls can be differentiated -------------------


@torch.enable_grad()
def _by_autograd(
    model: nn.Module,
    x: Tensor,
    choices: Mapping[str, Choice],
    manner: SeededManner,
    limit: int,
    advance: Callable[[int], Any],
) -> Iterator[Part]:
    """Units of the images ``x`` [N,C,H,W] carried down, as whole pictures, by a forward pass under
    the deconvnet's rules and a backward pass for every unit of an image. It takes any model whose
    calls autograd follows; ``limit``: bytes that the graph of one batch of images may hold."""
    last = [*choices][-1]

    def run(images: slice, measure: bool = False) -> Generator[Part, None, int]:
        source = x[images].detach().clone().requires_grad_()
        rules = manner.rules(measure)
        with rules.told_by(model) if measure else nullcontext():
            outputs = _outputs(model, source, [*choices], rules)
        for layer, choice in choices.items():
            maps, left = outputs[layer], []
            with _naming_quantised(model, layer):
                if measure and manner.rule == "deconv":
                    left = calls_left_to_gradient(maps, source)
                values = maps.detach()
                (units,) = on_host([choice.choose(values, layer, images, len(x))])
                projected = _down_by_autograd(
                    maps, source, layer, units, manner.seed, layer == last
                )
            yield layer, Carried.of(values, units, projected, images), left
            advance(len(source))
        return rules.total_bytes

    # Backward adds about half of what the forward pass keeps.
    needed = (yield from run(slice(0, 1), measure=True)) * 3 // 2
    # Listed units are not equally many of every image, which passes are shared by.
    together = 1 if isinstance(choices[last], Listed) else limit // max(1, needed)

    @torch.no_grad()
    def layers(images: Tensor) -> list[Tensor]:
        return [*_outputs(model, images, [*choices], fast_forward()).values()]

    if len(x) > 2 and not stands_alone(model, [*choices], layers, x[:1].detach(), together):
        together = 1
    for images in spans(1, len(x), max(1, together)):
        yield from run(images)


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
    maps: Tensor, source: Tensor, layer: str, units: Tensor, seed: Seed, last: bool
) -> list[Windows]:
    """The ``units`` [p,4] of ``maps`` [n,C,h,w], carried down to ``source``, one of every image at
    a time; ``last`` if nothing else will be."""
    image = units[:, 0].numpy()
    rank = np.arange(len(image)) - np.searchsorted(image, image)  # among its image's
    projected = []
    for turn in range(rank.max(initial=-1) + 1):
        rows = np.flatnonzero(rank == turn)
        start = _start(maps.detach(), units[rows], seed)
        signal = _gradient(maps, source, layer, start, keep=not (last and turn == rank.max()))
        if len(rows) < len(signal):
            signal = at(signal, image[rows])
        boxes = np.tile(np.array([0, 0, *source.shape[2:]]), (len(rows), 1))
        projected.append(Windows(rows, signal.permute(0, 2, 3, 1), boxes[:, :2], boxes))
    return projected


def _start(values: Tensor, units: Tensor, seed: Seed) -> Tensor:
    """The signal that begins at one unit each of some images, ``units`` [q,4], zero everywhere
    else."""
    start = torch.zeros_like(values)
    for image, channel, row, column in units.tolist():
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
