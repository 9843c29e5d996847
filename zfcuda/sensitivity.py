"""Occlusion: which part of the image carries the decision (Zeiler & Fergus 2014, section 4.2)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda import _running, ops
from zfcuda._running import (
    check_input,
    choose_target,
    evaluating,
    fill_setting,
    find_layers,
    memory_limit,
    pair,
    progress_bar,
    spans,
    to_result,
    variant_passes,
)
from zfcuda.graph import Untraceable, trace
from zfcuda.incremental import (
    Base,
    base_pass,
    batch_sizes,
    images_together,
    occlude_all,
    summary,
)
from zfcuda.planning import Plan, Schedule, boxes_of, planned
from zfcuda.results import LayerSums, OcclusionResult
from zfcuda.steps import fuse

Method = Literal["auto", "cone", "dense"]
_METHODS = ("auto", "cone", "dense")
_KEPT = ("logits", "best", "log_total")  # of every position
_MANY = 512  # positions of several images that whole passes take together


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: str | Sequence[str] = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "logit",
    positions: Tensor | None = None,
    classes: Sequence[int] | Tensor | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> OcclusionResult:
    """The model's output with a rectangle of the image hidden, for a grid of rectangles.

    The image is run once as it is; every position then recomputes only what its rectangle can
    change on each map, exactly (not an approximation), down to the layer from which whole maps
    are cheaper. :func:`plan` tells which that is.

    The grid is Captum's: per axis the occluder starts at 0, s, 2s, ..., ceil((H - h) / s) + 1
    positions of them, the last one cut off at the edge (a position entirely outside, possible when
    the stride exceeds the size, is left out). Nothing else is clamped.

    Args:
        model: returns logits [N,K] for ``x``; runs in eval mode and is left as it was.
        x: [N,C,H,W], on the model's device and of its dtype. NaN is allowed and propagates.
        target: the class that scores are about, one for all images or one per image; None takes
            what the model predicts without occluder.
        size, stride: of the occluder in pixels, an int or (height, width), at most the image's.
        fill: what the occluder shows, in network input space: a number (0 is usually the mean
            colour), one per channel [C], or an image [C,H,W], such as a blurred one.
        layers: names of ``model.named_modules()``; for each, the spatial sum of the map that is
            strongest without occluder is recorded at every position (figure 7b).
        method: "cone" recomputes what can change, wherever it can be told; "dense" runs a full pass
            for each position; "auto" does what is faster at every layer. A model that
            ``torch.fx`` cannot trace runs dense under "auto", with a warning that says why.
        score: what :meth:`OcclusionResult.to_attribution` is made of.
        positions: boxes of your own instead of a grid, int64 [P,4] of (y0, x0, y1, x1), half open,
            pixels; clipped to the image, which each has to meet. ``size`` and ``stride`` then have
            no effect.
        classes: keep only these classes' logits (and the targets'), in ascending order, each once
            (``result.classes``), no others than the targets' if it is empty; probabilities and
            labels still take all classes into account. None keeps all.
        max_memory: bytes that the activations of one batch may take, at least one position's; by
            default half of what is free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or method "cone" for a
            model that cannot be traced.
    """
    start = time.perf_counter()
    request = _request(model, x, size, stride, positions, method, max_memory)
    prepared = _prepared(model, x, request, fill, layers, score)
    if isinstance(prepared.network, str) and method == "auto":
        warnings.warn(f"occlusion runs dense passes, since {prepared.network}", stacklevel=3)
    with progress_bar(len(x) * len(request.boxes), progress, "occlusion") as advance:
        return prepared(x, target, classes, advance, start)


def _prepared(
    model: nn.Module,
    x: Tensor,
    request: _Request,
    fill: object,
    layers: str | Sequence[str],
    score: Literal["logit", "probability"],
) -> Prepared:
    if score not in ("logit", "probability"):
        raise ValueError(f"score must be 'logit' or 'probability', got {score!r}")
    names = list(find_layers(model, layers))
    shown = fill_setting(fill, x, with_image=True)
    with evaluating(model):
        network = _network(model, x, request, names)
    return Prepared(model, request, network, names, shown, score)


@torch.inference_mode(False)
def prepare(
    model: nn.Module,
    x: Tensor,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: str | Sequence[str] = (),
    method: Method = "auto",
    score: Literal["logit", "probability"] = "logit",
    max_memory: int | None = None,
) -> Prepared:
    """The part of :func:`occlusion` that all images of one size share, done once: checks, trace,
    plan. The arguments and the errors are those of :func:`occlusion`; ``x`` is any of the images.
    """
    request = _request(model, x, size, stride, None, method, max_memory)
    return _prepared(model, x, request, fill, layers, score)


@torch.inference_mode(False)
def plan(
    model: nn.Module,
    x: Tensor,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    layers: str | Sequence[str] = (),
    method: Method = "auto",
    positions: Tensor | None = None,
    max_memory: int | None = None,
) -> Plan:
    """What :func:`occlusion` would do with the same arguments: which steps run inside cones, where
    whole maps begin, and the predicted speed-up. Runs the model on one image.

    Returns:
        A :class:`zfcuda.planning.Plan`; ``print`` shows it as a table.

    Raises:
        TypeError, ValueError: as :func:`occlusion`.
    """
    request = _request(model, x, size, stride, positions, method, max_memory)
    return _prepared(model, x, request, 0.0, layers, "logit").plan


# --- what was asked for ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    """The checked arguments that a plan depends on."""

    boxes: Tensor
    grid: tuple[int, int] | None
    size: tuple[int, int] | None
    stride: tuple[int, int] | None
    method: Method
    limit: int


def _request(
    model: nn.Module,
    x: Tensor,
    size: int | tuple[int, int],
    stride: int | tuple[int, int],
    positions: Tensor | None,
    method: Method,
    max_memory: int | None,
) -> _Request:
    check_input(model, x)
    if method not in _METHODS:
        raise ValueError(f"method must be 'auto', 'cone' or 'dense', got {method!r}")
    image_size = (x.shape[2], x.shape[3])
    limit = memory_limit(max_memory, x.device)
    if positions is not None:
        return _Request(_own_boxes(positions, image_size), None, None, None, method, limit)
    size, stride = pair(size, "size"), pair(stride, "stride")
    boxes, grid = occluder_grid(image_size, size, stride)
    return _Request(boxes, grid, size, stride, method, limit)


def _own_boxes(positions: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The caller's boxes, clipped to the image."""
    if not isinstance(positions, Tensor) or positions.dtype != torch.int64:
        got = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        raise TypeError(f"positions must be an int64 tensor [P,4] of (y0, x0, y1, x1), got {got}")
    if positions.dim() != 2 or positions.shape[1] != 4 or len(positions) == 0:
        raise ValueError(
            "positions must be [P,4] of (y0, x0, y1, x1) and not empty, got shape "
            f"{list(positions.shape)}"
        )
    limits = torch.tensor([*image_size, *image_size])
    boxes = positions.detach().cpu().clamp_min(0).minimum(limits)
    empty = (boxes[:, :2] >= boxes[:, 2:]).any(1)
    if bool(empty.any()):
        first = int(empty.nonzero()[0])
        raise ValueError(
            f"position {first}, {positions[first].tolist()} as (y0, x0, y1, x1), hides nothing of "
            f"an image of {image_size[0]}x{image_size[1]} pixels"
        )
    return boxes


def _kept_classes(classes: object, target: Tensor, count: int) -> Tensor | None:
    """The chosen classes and the targets [N], int64, ascending; None for all."""
    if classes is None:
        return None
    try:
        chosen = torch.as_tensor(classes)
        chosen = chosen.long() if chosen.shape == (0,) else chosen  # none but the targets
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.empty(0)
    if chosen.dim() != 1 or chosen.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"classes must be ints, one for each class to keep, got {classes!r}")
    if bool(((chosen < 0) | (chosen >= count)).any()):
        raise ValueError(f"classes must be between 0 and {count - 1}, got {classes!r}")
    return torch.cat([chosen.long().cpu(), target]).unique()


@dataclass(frozen=True, eq=False)
class _Found:
    """What a run found, on the CPU; as in :class:`OcclusionResult` unless said otherwise.

    Attributes:
        kept: of every position [N,P,...], the fields of :func:`zfcuda.incremental.summary`.
    """

    base_logits: Tensor
    target: Tensor
    classes: Tensor | None
    kept: dict[str, Tensor]
    layers: tuple[LayerSums, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and its occluder, ready for any number of batches of images of one size.

    The model must not change in between.

    Attributes:
        network: what is run how, or why the model itself is called for every position.
        layers: those that are recorded.
        fill: as the result records it.
    """

    model: nn.Module
    request: _Request
    network: _Network | str
    layers: list[str]
    fill: float | Tensor
    score: Literal["logit", "probability"]

    @property
    def positions(self) -> int:
        """How many of an image."""
        return len(self.request.boxes)

    @property
    def plan(self) -> Plan:
        """See :func:`plan`."""
        if isinstance(self.network, str):
            return Plan("dense", self.network, self.positions, (), 1)
        return self.network.plan

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
                found = _dense(
                    self.model, x, request, self.layers, self.fill, target, classes, advance
                )
            else:
                found = _incremental(network, x, request, self.fill, target, classes, advance)
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
        )


# --- inside cones ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Network:
    """A traced model with what to run of it how; ``nodes`` are the recorded layers'."""

    schedule: Schedule
    plan: Plan
    nodes: dict[str, int]


def _network(model: nn.Module, x: Tensor, request: _Request, layers: list[str]) -> _Network | str:
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


def _traced(model: nn.Module, x: Tensor, request: _Request, layers: list[str]) -> _Network:
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
    return _Network(schedule, Plan(method, reason, len(request.boxes), rows, chunk), nodes)


def _incremental(
    network: _Network,
    x: Tensor,
    request: _Request,
    fill: float | Tensor,
    target: object,
    classes: object,
    advance: Callable[[int], object],
) -> _Found:
    shown = torch.as_tensor(fill, dtype=x.dtype).to(x.device)
    shown = shown[:, None, None] if shown.dim() == 1 else shown
    shown = shown.expand(x.shape[1:]).permute(1, 2, 0).contiguous()[None]

    def base_of(images: slice) -> Base:
        return base_pass(network.schedule, x[images].detach(), network.nodes.values())

    groups = [*spans(0, len(x), images_together(network.schedule, request.limit, x.element_size()))]
    base = base_of(groups[0])
    logits = base.logits[:1].expand(len(x), -1)
    if classes is not None and target is None:  # the targets of all images are kept for each
        logits = torch.cat([base.logits, *(base_of(group).logits for group in groups[1:])])
    kept = _kept_classes(classes, choose_target(target, to_result(logits)), logits.shape[1])
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
    return _Found(
        base_logits,
        choose_target(target, base_logits),
        kept,
        {name: torch.cat([each[name] for each in found]) for name in _KEPT},
        tuple(_layer_sums(name, parts, wide) for name, parts in layers.items()),
    )


def _layer_sums(
    name: str, parts: list[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype
) -> LayerSums:
    """Of the images of each part their maps [n], the maps' sums [n], and the sums [n,P]."""
    channels, base, sums = (torch.cat(values).cpu() for values in zip(*parts, strict=True))
    return LayerSums(name, channels, base.to(dtype), sums.to(dtype))


# --- whole passes ---------------------------------------------------------------------------------


def _dense(
    model: nn.Module,
    x: Tensor,
    request: _Request,
    layers: list[str],
    fill: float | Tensor,
    target: object,
    classes: object,
    advance: Callable[[int], object],
) -> _Found:
    """The same, the model itself called for every position."""
    logits, strongest, fitting = _running.base_pass(model, x, layers, _strongest_map, request.limit)
    base_logits = to_result(logits)
    chosen = choose_target(target, base_logits)
    kept = _kept_classes(classes, chosen, base_logits.shape[1])
    channels = {name: torch.cat([part[0] for part in strongest[name]]) for name in layers}
    base_sums = {name: torch.cat([part[1] for part in strongest[name]]) for name in layers}

    def occluded(images: Tensor, positions: slice) -> Tensor:
        return ops.occlude(images, request.boxes[positions], fill)

    def map_sum(layer: str, maps: Tensor, images: slice) -> Tensor:
        index = channels[layer][images, None, None].expand(-1, maps.shape[1], 1)
        index = index[..., None, None].expand(-1, -1, -1, *maps.shape[3:])
        return _spatial_sum(maps.gather(2, index)[:, :, 0])

    logits, sums = variant_passes(
        model, x.detach(), occluded, len(request.boxes), layers, map_sum, fitting, advance
    )
    return _Found(
        base_logits,
        chosen,
        kept,
        summary(logits, kept),
        tuple(
            LayerSums(name, channels[name].cpu(), to_result(base_sums[name]), sums[name])
            for name in layers
        ),
    )


def occluder_grid(
    image_size: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """The occluder's boxes int64 [P,4] of (y0, x0, y1, x1), row by row, and the grid's shape.

    Raises:
        ValueError: an occluder or stride larger than the image.
    """
    for name, value in (("size", size), ("stride", stride)):
        if value[0] > image_size[0] or value[1] > image_size[1]:
            raise ValueError(
                f"{name} must be at most the image's height and width {image_size}, got {value}"
            )
    axes = []
    for length, occluder, step in zip(image_size, size, stride, strict=True):
        count = -(-(length - occluder) // step) + 1
        first = torch.arange(count) * step
        first = first[first < length]
        axes.append(torch.stack([first, (first + occluder).clamp_max(length)], dim=1))
    rows, columns = axes
    boxes = torch.empty(len(rows), len(columns), 4, dtype=torch.int64)
    boxes[..., 0::2] = rows[:, None]
    boxes[..., 1::2] = columns
    return boxes.flatten(0, 1), (len(rows), len(columns))


def _spatial_sum(maps: Tensor) -> Tensor:
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else maps.dtype
    return maps.sum((-2, -1), dtype=wide)


def _strongest_map(layer: str, maps: Tensor) -> tuple[Tensor, Tensor]:
    """The map of each image that holds the largest single activation [n], and its sum [n]."""
    channels = maps.amax((2, 3)).argmax(1)
    image = torch.arange(len(maps), device=maps.device)
    return channels, _spatial_sum(maps[image, channels])
