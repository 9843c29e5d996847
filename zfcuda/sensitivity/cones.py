"""Occlusion inside cones: a traced model, and what to run of it how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zfcuda.cones.occluding import Base, base_pass, batch_sizes, images_together, occlude_all
from zfcuda.cones.planning import Plan, Schedule, boxes_of, planned
from zfcuda.cones.steps import fuse
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import choose_target, to_result
from zfcuda.inference.interception import Operations
from zfcuda.inference.passes import outputs_of, spans
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.occlusion import LayerSums
from zfcuda.sensitivity.found import Found
from zfcuda.sensitivity.request import Request, kept_classes

_KEPT = ("logits", "best", "log_total")  # of every position


@dataclass(frozen=True, eq=False)
class Network:
    """A traced model with what to run of it how; ``nodes`` are the recorded layers'."""

    schedule: Schedule
    plan: Plan
    nodes: dict[str, int]


def network_for(model: nn.Module, x: Tensor, request: Request, layers: list[str]) -> Network | str:
    """How to run the model inside cones, or why not."""
    if request.method == "dense":
        return "as asked"
    try:
        return _traced(model, x, request, layers)
    except Untraceable as error:
        if request.method == "cone":
            raise ValueError(
                f"method 'cone' needs a model that can be traced: {error}; use method='auto'"
            ) from error
        return f"the model cannot be traced: {error}"


def _traced(model: nn.Module, x: Tensor, request: Request, layers: list[str]) -> Network:
    """
    Raises:
        Untraceable: the model cannot be traced, or a layer is not in the graph.
    """
    # The model itself, named "", returns last: the whole graph, and no layer hidden in a step.
    graph = trace(model, x[:1], ["", *layers] if layers else ())
    nodes: dict[str, int] = {}
    for layer in layers:
        node = graph.layer(layer)
        if node is None or node.shape is None or len(node.shape) not in (1, 3):
            raise Untraceable(f"the graph has no maps of layer {layer!r}")
        nodes[layer] = node.index
    steps = fuse(graph, nodes.values())
    boxes = boxes_of(steps, request.boxes.numpy())
    force = request.method == "cone"
    schedule, rows = planned(steps, boxes, 128, x.element_size(), force)
    chunk, _ = batch_sizes(schedule, request.limit, x.device, x.element_size())
    method = "cone" if schedule.cones else "dense"
    reason = "" if schedule.cones else "no cone is cheaper than whole maps"
    return Network(schedule, Plan(method, reason, len(request.boxes), rows, chunk), nodes)


def in_cones(
    network: Network,
    x: Tensor,
    request: Request,
    fill: float | Tensor,
    target: object,
    classes: object,
    advance: Callable[[int], object],
    outputs: Outputs | None,
) -> Found:
    """Every position of every image ``x`` [N,C,H,W], of which only what it can change is computed,
    as far as the schedule says."""
    shown = torch.as_tensor(fill, dtype=x.dtype).to(x.device)
    shown = shown[:, None, None] if shown.dim() == 1 else shown
    shown = shown.expand(x.shape[1:]).permute(1, 2, 0).contiguous()[None]

    def base_of(images: slice) -> Base:
        return base_pass(network.schedule, x[images].detach(), network.nodes.values())

    groups = [*spans(0, len(x), images_together(network.schedule, request.limit, x.element_size()))]
    seen = Operations()
    with seen:
        base = base_of(groups[0])
    seen.end(base.logits)
    if outputs is not None:
        check_outputs(outputs, base.logits.shape[1])
    logits = base.logits[:1].expand(len(x), -1)
    if classes is not None and target is None:  # the targets of all images are kept for each
        logits = torch.cat([base.logits, *(base_of(group).logits for group in groups[1:])])
    kept = kept_classes(classes, choose_target(target, to_result(logits)), logits.shape[1])
    base_logits: list[Tensor] = []
    found: list[dict[str, Tensor]] = []
    layers: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in network.nodes}
    for number, group in enumerate(groups):
        base = base_of(group) if number else base
        channels = {node: channels for node, (channels, _) in base.strongest.items()}
        count = len(base.logits)
        answers = occlude_all(
            network.schedule, base.maps, shown, count, channels, request.limit, advance, kept
        )
        base_logits.append(to_result(base.logits))
        found.append({name: to_result(getattr(answers, name)) for name in _KEPT})
        for name, node in network.nodes.items():
            layers[name].append((*base.strongest[node], answers.sums[node]))
    base_logits = torch.cat(base_logits)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return Found(
        base_logits,
        choose_target(target, base_logits),
        kept,
        {name: torch.cat([each[name] for each in found]) for name in _KEPT},
        tuple(_layer_sums(name, parts, wide) for name, parts in layers.items()),
        outputs_of(outputs, base_logits, seen),
    )


def _layer_sums(
    name: str, parts: list[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype
) -> LayerSums:
    """Of the images of each part their maps [n], the maps' sums [n], and the sums [n,P]."""
    channels, base, sums = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    return LayerSums(name, channels, base.to(dtype), sums.to(dtype))
