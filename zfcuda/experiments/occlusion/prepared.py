"""A model and its occluder, checked, traced and planned once for any number of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.cones.occluding import (
    Base,
    base_values,
    batch_sizes,
    images_together,
    occlude_all,
    summary,
)
from zfcuda.cones.planning import Plan, Schedule, boxes_of, planned
from zfcuda.cones.steps import fuse
from zfcuda.experiments.occlusion.request import Request, kept_classes
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import choose_target, fill_setting, to_result
from zfcuda.inference.guards import evaluating
from zfcuda.inference.interception import Operations
from zfcuda.inference.passes import (
    Layers,
    Passes,
    find_layers,
    outputs_of,
    require_shape,
    spans,
)
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.occlusion import LayerSums, OcclusionResult


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found, on the CPU; as in :class:`OcclusionResult` unless said otherwise.

    Attributes:
        kept: of every position [N,P,...], the fields of :func:`zfcuda.cones.occluding.summary`.
    """

    base_logits: Tensor
    target: Tensor
    classes: Tensor | None
    kept: dict[str, Tensor]
    layers: tuple[LayerSums, ...]
    outputs: Outputs


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
        return base_values(network.schedule, x[images].detach(), network.nodes.values())

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


def in_whole_passes(
    model: nn.Module,
    x: Tensor,
    request: Request,
    layers: list[str],
    fill: float | Tensor,
    target: object,
    classes: object,
    advance: Callable[[int], object],
    outputs: Outputs | None,
) -> Found:
    """Every position of every image ``x`` [N,C,H,W], the model itself called for each."""
    passes = Passes(model, layers, request.limit)
    logits, strongest = passes.images(x, _strongest_map, len(x) * len(request.boxes))
    base_logits = to_result(logits)
    kind = passes.outputs(outputs, base_logits)
    chosen = choose_target(target, base_logits)
    kept = kept_classes(classes, chosen, base_logits.shape[1])
    channels = {name: torch.cat([part[0] for part in strongest[name]]) for name in layers}
    base_sums = {name: torch.cat([part[1] for part in strongest[name]]) for name in layers}

    def occluded(images: Tensor, positions: slice) -> Tensor:
        return ops.occlude(images, request.boxes[positions], fill)

    def map_sum(layer: str, maps: Tensor, images: slice) -> Tensor:
        require_shape(layer, maps, strongest[layer][0][2])
        index = channels[layer][images, None, None].expand(-1, maps.shape[1], 1)
        index = index[..., None, None].expand(-1, -1, -1, *maps.shape[3:])
        return _spatial_sum(maps.gather(2, index)[:, :, 0])

    logits, sums = passes.variants(x.detach(), occluded, len(request.boxes), map_sum, advance)
    return Found(
        base_logits,
        chosen,
        kept,
        summary(logits, kept),
        tuple(
            LayerSums(name, channels[name].cpu(), to_result(base_sums[name]), sums[name])
            for name in layers
        ),
        kind,
    )


def _spatial_sum(maps: Tensor) -> Tensor:
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else maps.dtype
    return maps.sum((-2, -1), dtype=wide)


def _strongest_map(layer: str, maps: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """The map of each image that holds the largest single activation [n], its sum [n], and the
    maps' shape."""
    channels = maps.amax((2, 3)).argmax(1)
    image = torch.arange(len(maps), device=maps.device)
    return channels, _spatial_sum(maps[image, channels]), maps.shape[1:]


_MANY = 512  # positions of several images that whole passes take together


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and its occluder, ready for any number of batches of images of one size.

    The model must not change in between.

    Attributes:
        network: what is run how, or why the model itself is called for every position.
        layers: those that are recorded.
        fill: as the result records it.
        outputs: as the user says, or None for what they are found to be.
    """

    model: nn.Module
    request: Request
    network: Network | str
    layers: list[str]
    fill: float | Tensor
    score: Literal["logit", "probability"]
    outputs: Outputs | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Tensor,
        request: Request,
        fill: object,
        layers: Layers,
        score: Literal["logit", "probability"],
        outputs: Outputs | None = None,
    ) -> Prepared:
        """Checked, traced and planned; ``x`` is any of the images.

        Raises:
            TypeError, ValueError: as :func:`occlusion`.
        """
        if score not in ("logit", "probability"):
            raise ValueError(f"score must be 'logit' or 'probability', got {score!r}")
        if outputs is not None:
            check_outputs(outputs)
        names = list(find_layers(model, layers))
        shown = fill_setting(fill, x, with_image=True)
        with evaluating(model):
            network = network_for(model, x, request, names)
        return cls(model, request, network, names, shown, score, outputs)

    @property
    def positions(self) -> int:
        """How many of an image."""
        return len(self.request.boxes)

    @property
    def plan(self) -> Plan:
        """See :func:`plan`."""
        if isinstance(self.network, str):
            plan = Plan("dense", self.network, self.positions, (), 1)
        else:
            plan = self.network.plan
        return replace(plan, size=self.request.size, stride=self.request.stride)

    def together(self, x: Tensor) -> int:
        """How many images like ``x`` [N,C,H,W] make a good batch; the same for the same memory
        limit, whatever else the machine does."""
        if isinstance(self.network, str):
            return max(1, min(_MANY // self.positions, self.request.limit // (4 * x[0].nbytes)))
        return images_together(self.network.schedule, self.request.limit, x.element_size())

    @torch.inference_mode(False)
    def __call__(
        self,
        x: Tensor,
        target: object = None,
        classes: object = None,
        advance: Callable[[int], object] = lambda positions: None,
        start: float | None = None,
    ) -> OcclusionResult:
        """Occlude ``x``.

        Args:
            x, target, classes: as :func:`occlusion`; ``x`` of the size that was prepared for.
            advance: called with the number of positions done.
            start: ``perf_counter()`` of the start, for the wall time.
        """
        start = time.perf_counter() if start is None else start
        request, network = self.request, self.network
        with evaluating(self.model):
            if isinstance(network, str):
                found = in_whole_passes(
                    self.model, x, request, self.layers, self.fill, target, classes, advance,
                    self.outputs,
                )  # fmt: skip
            else:
                found = in_cones(
                    network, x, request, self.fill, target, classes, advance, self.outputs
                )
        kept = found.kept if classes is not None else {"logits": found.kept["logits"]}
        return OcclusionResult(
            **kept,
            base_logits=found.base_logits,
            target=found.target,
            boxes=request.boxes,
            grid=request.grid,
            size=request.size,
            stride=request.stride,
            image_size=(x.shape[2], x.shape[3]),
            fill=self.fill,
            layers={layer.layer: layer for layer in found.layers},
            seconds=time.perf_counter() - start,
            score=self.score,
            method="dense" if isinstance(network, str) else network.plan.method,
            classes=found.classes,
            outputs=found.outputs,
        )
