"""Units carried down inside their backward cones, where the model can be followed as a graph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.cones.descent import Projected, descend
from zfcuda.cones.observing import Manner, Observed, arranged, forward_bytes, observe, obstacle
from zfcuda.experiments.deconvnet.request import (
    Carried,
    CarriedListed,
    Requests,
    Seed,
    activations_of,
    nowhere,
)
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph
from zfcuda.graph.tracing import trace
from zfcuda.inference.passes import spans
from zfcuda.storage.files import visible

_log = logging.getLogger(__name__)


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
    return graph, reached


def carry_on_cones(
    graph: Graph, x: Tensor, requests: Requests, limit: int, advance: Callable[[int], Any]
) -> tuple[dict[str, Carried], list[str]]:
    """The requested units, and the calls that were left to their gradient.

    Args:
        x: [N,C,H,W].
        requests: of layers that :func:`followed` has found to be reached.
        limit: bytes for the activations of one batch of images, and for one batch's signals.
        advance: called with the number of images that a layer is done with.
    """
    nodes = {layer: graph.layer(layer).index for layer in requests}
    manner = next(iter(requests.values())).manner
    parts: dict[str, list[Carried]] = {layer: [] for layer in requests}
    left: list[str] = []
    for images in _batches(graph, x, nodes, limit):
        observed = observe(graph, x[images], nodes.values(), manner)
        left = observed.left
        for layer, request in requests.items():
            maps = observed.outputs[nodes[layer]]
            places = request.choice.choose(maps, layer, images, len(x))
            image = np.repeat(np.arange(len(maps)), places.shape[1])
            units = places.flatten(0, 1).cpu().numpy()
            projected = _down_cones(observed, nodes[layer], image, units, request.seed, limit)
            size = tuple(maps.shape[1:])
            parts[layer].append(Carried(places, activations_of(maps, places), projected, size))
            advance(len(maps))
    return {layer: Carried.joined(parts[layer]) for layer in requests}, left


def carry_listed_on_cones(
    graph: Graph, x: Tensor, listed: Mapping[str, np.ndarray], limit: int
) -> tuple[dict[str, CarriedListed], list[str]]:
    """:func:`carry_on_cones` for units int64 [P,4], (image, channel, row, column), from
    their own values."""
    nodes = {layer: graph.layer(layer).index for layer in listed}
    carried = {layer: CarriedListed.none_yet(x, len(units)) for layer, units in listed.items()}
    left: list[str] = []
    for images in _batches(graph, x, nodes, limit):
        observed = observe(graph, x[images], nodes.values(), Manner())
        left = observed.left
        for layer, units in listed.items():
            here = np.flatnonzero((units[:, 0] >= images.start) & (units[:, 0] < images.stop))
            if not len(here):
                continue
            image, places = units[here, 0] - images.start, units[here, 1:]
            at = tuple(torch.from_numpy(index).to(x.device) for index in (image, *places.T))
            projected = _down_cones(observed, nodes[layer], image, places, "activation", limit)
            carried[layer].fill(here, observed.outputs[nodes[layer]][at], projected)
    return carried, left


def _traced(model: nn.Module, image: Tensor, layers: Sequence[str]) -> Graph:
    if torch.is_autocast_enabled(image.device.type):
        raise Untraceable("autocast is on")
    if any(weight.is_inference() for weight in chain(model.parameters(), model.buffers())):
        raise Untraceable("weights were made under inference_mode")
    try:
        return trace(model, arranged(image), layers)
    except Untraceable:  # perhaps a view that only the model's own arrangement allows
        return trace(model, image, layers)


def _batches(graph: Graph, x: Tensor, nodes: Mapping[str, int], limit: int) -> Iterator[slice]:
    """As many images at a time as fit in ``limit`` bytes on their way up to these nodes."""
    each = forward_bytes(graph, nodes.values(), x.element_size())
    return spans(0, len(x), max(1, limit // each))


def _down_cones(
    observed: Observed, node: int, images: np.ndarray, places: np.ndarray, seed: Seed, limit: int
) -> list[Projected]:
    """The units ``places`` [P,3] of these ``images`` [P], carried down."""
    projected = [nowhere(observed.outputs[node], observed.graph.nodes[0].shape[0])] * len(places)
    start = None if seed == "activation" else float(seed)
    for unit, patch in descend(observed, node, images, places, start, limit):
        projected[unit] = patch
    return projected
