"""A model and its occluder, checked, traced and planned once for any number of images.

:func:`engine_for` has the checks and chooses between two engines: :class:`Cones` computes what an
occluder can change, :class:`Dense` calls the model itself for every position.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.cones.leaks import leak
from zfcuda.cones.occluding import base_values, batch_sizes, images_together, occlude_all, summary
from zfcuda.cones.operators.patches import Kept
from zfcuda.cones.planning import Plan, planned
from zfcuda.cones.profile import DeviceProfile, profile_of
from zfcuda.cones.steps import Schedule, fuse
from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import as_recorded
from zfcuda.graph.tracing import trace
from zfcuda.inference.checks import (
    as_ints,
    check_input,
    choose_target,
    evaluating,
    fill_setting,
    pair,
    plain,
    to_result,
    to_results,
    untuned,
)
from zfcuda.inference.interception import Operations
from zfcuda.inference.layers import Layers, find_layers, require_shape
from zfcuda.inference.passes import Passes, memory_limit, outputs_of, spans
from zfcuda.ops.windows import on_device
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.occlusion import LayerSums, OcclusionResult
from zfcuda.storage.files import visible
from zfcuda.storage.identity import precision

Method = Literal["auto", "cone", "dense"]
Score = Literal["logit", "probability"]
_METHODS = ("auto", "cone", "dense")
_TABLES = 16  # one such part of the memory may tables take that are kept


@dataclass(frozen=True, eq=False)
class Request:
    """The arguments of :func:`zfcuda.occlusion` of these names, on which the engine depends;
    ``grid``: (rows, columns) of a :meth:`checked` request, None for the caller's own positions."""

    size: Any = None
    stride: Any = None
    fill: Any = 0.0
    layers: Layers = ()
    method: Method = "auto"
    score: Score = "logit"
    positions: Tensor | None = None
    max_memory: int | None = None
    outputs: Outputs | None = None
    profile: DeviceProfile | None = None
    grid: tuple[int, int] | None = None

    def checked(self, model: nn.Module, x: Tensor) -> Request:
        """The same for images like ``x``, with nothing left open: pairs of pixels as ``size`` and
        ``stride`` (None with the caller's own positions), the fill as results record it, names of
        layers, boxes int64 [P,4] as ``positions``, bytes, the device's profile.

        Raises:
            TypeError, ValueError: an argument of the wrong kind or out of range.
        """
        check_input(model, x)
        if self.method not in _METHODS:
            raise ValueError(f"method must be 'auto', 'cone' or 'dense', got {self.method!r}")
        limit = memory_limit(self.max_memory, x.device)
        image_size = (x.shape[2], x.shape[3])
        if self.positions is not None:
            boxes, grid, size, stride = own_boxes(self.positions, image_size), None, None, None
        else:
            usual_size, usual_stride = usual_occluder(image_size)
            size = pair(usual_size if self.size is None else self.size, "size")
            stride = pair(usual_stride if self.stride is None else self.stride, "stride")
            boxes, grid = occluder_grid(image_size, size, stride)
        if self.score not in ("logit", "probability"):
            raise ValueError(f"score must be 'logit' or 'probability', got {self.score!r}")
        if self.outputs is not None:
            check_outputs(self.outputs)
        if not isinstance(self.profile, DeviceProfile | None):
            raise TypeError(f"profile must be a zfcuda.DeviceProfile, got {self.profile!r}")
        return replace(
            self,
            size=size,
            stride=stride,
            layers=list(find_layers(model, self.layers)),
            fill=fill_setting(self.fill, x, with_image=True),
            positions=boxes,
            max_memory=limit,
            profile=self.profile or profile_of(x.device, x.dtype),
            grid=grid,
        )


@dataclass(frozen=True, eq=False)
class Engine(ABC):
    """A model, which must not change, and its occluder, ready for any number of batches of images
    of one size; ``request`` is checked, ``plan`` as of :func:`zfcuda.plan`."""

    model: nn.Module
    request: Request
    plan: Plan

    @abstractmethod
    def together(self, x: Tensor) -> int:
        """How many images like ``x`` [N,C,H,W] make a good batch; the same for the same memory
        limit, whatever else the machine does."""

    @abstractmethod
    def occlude(
        self, x: Tensor, target: Any, classes: Any, advance: Callable[[int], object]
    ) -> dict[str, Any]:
        """Every position of every image: the fields of :class:`OcclusionResult` that depend on what
        the model says."""

    def _calls(self, device: torch.device) -> AbstractContextManager[Any]:
        """How torch is to run them."""
        return nullcontext()

    @torch.inference_mode(False)
    def __call__(
        self,
        x: Tensor,
        target: Any = None,
        classes: Any = None,
        advance: Callable[[int], object] = lambda positions: None,
        start: float | None = None,
    ) -> OcclusionResult:
        """Occlude ``x``, of the size that the engine is for; ``target`` and ``classes`` as
        :func:`zfcuda.occlusion`.

        Args:
            advance: called with the number of positions done.
            start: ``perf_counter()`` of the start, for the wall time.
        """
        start = time.perf_counter() if start is None else start
        request = self.request
        with evaluating(self.model), self._calls(x.device):
            answers = self.occlude(x, target, classes, advance)
        return OcclusionResult(
            **answers,
            boxes=request.positions,
            grid=request.grid,
            size=request.size,
            stride=request.stride,
            image_size=(x.shape[2], x.shape[3]),
            fill=request.fill,
            seconds=time.perf_counter() - start,
            score=request.score,
            method=self.plan.method,
            precision=precision(x.device, x.dtype),
        )


@torch.inference_mode(False)
def engine_for(
    model: nn.Module, x: Tensor, request: Request, stacklevel: int | None = None
) -> Engine:
    """How to occlude images like ``x`` [N,C,H,W]: the request checked, the model traced, planned.

    Raises:
        TypeError, ValueError: as :func:`zfcuda.occlusion`.

    Warns:
        UserWarning: with a ``stacklevel``, why the model cannot be traced, where "auto" asks.
    """
    x = plain(x)
    request = request.checked(model, x)
    reason = "as asked"
    if request.method != "dense":
        try:
            with evaluating(model):
                return _traced(model, x, request)
        except Untraceable as error:
            if request.method == "cone":
                raise ValueError(
                    f"method 'cone' needs a model that can be traced: {error}; use method='auto'"
                ) from error
            reason = f"the model cannot be traced: {error}"
            if stacklevel is not None:
                said = f"occlusion runs dense passes, since {reason}"
                warnings.warn(visible(said), stacklevel=stacklevel)
    count = len(request.positions)
    how = (request.profile, request.size, request.stride)
    return Dense(model, request, Plan("dense", reason, count, (), 1, *how))


def _traced(model: nn.Module, x: Tensor, request: Request) -> Engine:
    """Raises Untraceable if the model cannot be traced, or a layer is not in the graph."""
    # The model itself, named "", returns last: the whole graph, and no layer hidden in a step.
    wanted = ["", *request.layers] if request.layers else ()
    graph = trace(model, x[:1], wanted, mixing=request.method == "cone")
    nodes: dict[str, int] = {}
    for layer in request.layers:
        node = graph.layer(layer)
        if node is None or node.shape is None or len(node.shape) not in (1, 3):
            raise Untraceable(f"the graph has no maps of layer {layer!r}")
        nodes[layer] = node.index
    steps, boxes = fuse(graph, nodes.values()), request.positions.numpy()
    steps = replace(steps, profile=request.profile)
    schedule, rows = planned(steps, boxes, x.element_size(), request.method == "cone")
    if schedule.cones and (name := leak(graph, x[:1])):
        raise Untraceable(f"{name} changes more than its rule says")
    chunk, _ = batch_sizes(schedule, request.max_memory, x.element_size())
    method = "cone" if schedule.cones else "dense"
    reason = "" if schedule.cones else "no cone is cheaper than whole maps"
    how = (request.profile, request.size, request.stride)
    plan = Plan(method, reason, len(boxes), rows, chunk, *how)
    if not schedule.cones and not graph.mixes:  # the model's own pass is as fast as its calls are
        return Dense(model, request, plan)
    return Cones(model, request, plan, schedule, nodes, Kept(request.max_memory // _TABLES))


@dataclass(frozen=True, eq=False)
class Cones(Engine):
    """Computes what an occluder can change, as far as the schedule says.

    Attributes:
        nodes: of the recorded layers.
        tables: what further images need no more.
    """

    schedule: Schedule
    nodes: dict[str, int]
    tables: Kept

    @contextmanager
    def _calls(self, device: torch.device) -> Iterator[None]:
        with untuned(device), as_recorded(device):
            yield

    def together(self, x: Tensor) -> int:
        return images_together(self.schedule, self.request.max_memory, x.element_size())

    def occlude(
        self, x: Tensor, target: Any, classes: Any, advance: Callable[[int], object]
    ) -> dict[str, Any]:
        request, schedule, x = self.request, self.schedule, x.detach()
        watched = self.nodes.values()
        fill = _on_device(request.fill, x)
        fill = fill[:, None, None] if fill.dim() == 1 else fill
        fill = fill.expand(x.shape[1:]).permute(1, 2, 0).contiguous()[None]
        groups = [*spans(0, len(x), self.together(x))]
        seen = Operations()
        with seen:
            base = base_values(schedule, x[groups[0]], watched)
        seen.end(base[0])
        if request.outputs is not None:
            check_outputs(request.outputs, base[0].shape[1])
        logits = base[0][:1].expand(len(x), -1)
        if classes is not None and target is None:  # the targets of all images are kept for each
            others = (base_values(schedule, x[group])[0] for group in groups[1:])
            logits = torch.cat([base[0], *others])
        kept = kept_classes(classes, choose_target(target, to_result(logits)), logits.shape[1])
        there = None if kept is None else on_device(kept.numpy(), x.device)
        pieces: dict[Any, list[Tensor]] = {}
        for number, group in enumerate(groups):
            base = base_values(schedule, x[group], watched) if number else base
            logits, maps, strongest = base
            channels = {node: channels for node, (channels, _) in strongest.items()}
            own: dict[Any, Tensor] = occlude_all(
                schedule,
                maps,
                fill,
                len(logits),
                channels,
                request.max_memory,
                advance,
                there,
                self.tables,
            )
            own["base_logits"] = logits
            for node, of_map in strongest.items():
                own["channels", node], own["base", node] = of_map
            for key, values in to_results(own).items():
                pieces.setdefault(key, []).append(values)
        found = {key: torch.cat(values) for key, values in pieces.items()}
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        base_sums = {node: found["base", node].to(wide) for node in watched}
        return {
            **{key: values for key, values in found.items() if isinstance(key, str)},
            "target": choose_target(target, found["base_logits"]),
            "classes": kept,
            "layers": {
                name: LayerSums(
                    name, found["channels", node], base_sums[node], found[node].to(wide)
                )
                for name, node in self.nodes.items()
            },
            "outputs": outputs_of(request.outputs, found["base_logits"], seen),
        }


class Dense(Engine):
    """Calls the model itself for every position."""

    def together(self, x: Tensor) -> int:
        limit = self.request.max_memory // (4 * x[0].nbytes)
        return max(1, min(self.plan.profile.positions // len(self.request.positions), limit))

    def occlude(
        self, x: Tensor, target: Any, classes: Any, advance: Callable[[int], object]
    ) -> dict[str, Any]:
        request, layers, boxes = self.request, self.request.layers, self.request.positions
        passes = Passes(self.model, layers, request.max_memory)
        logits, strongest = passes.images(x, _strongest_map, len(x) * len(boxes))
        base_logits = to_result(logits)
        outputs = passes.outputs(request.outputs, base_logits)
        chosen = choose_target(target, base_logits)
        kept = kept_classes(classes, chosen, base_logits.shape[1])
        channels = {name: torch.cat([part[0] for part in strongest[name]]) for name in layers}
        base_sums = {name: torch.cat([part[1] for part in strongest[name]]) for name in layers}

        fill, there = _on_device(request.fill, x), on_device(boxes.numpy(), x.device)

        def occluded(images: Tensor, positions: slice) -> Tensor:
            return ops.occlude(images, there[positions], fill)

        def map_sum(layer: str, maps: Tensor, images: slice) -> Tensor:
            require_shape(layer, maps, strongest[layer][0][2])
            index = channels[layer][images, None, None].expand(-1, maps.shape[1], 1)
            index = index[..., None, None].expand(-1, -1, -1, *maps.shape[3:])
            return _spatial_sum(maps.gather(2, index)[:, :, 0])

        logits, sums = passes.variants(x.detach(), occluded, len(boxes), map_sum, advance)
        return {
            **summary(logits, kept),
            "base_logits": base_logits,
            "target": chosen,
            "classes": kept,
            "layers": {
                name: LayerSums(name, channels[name].cpu(), to_result(base_sums[name]), sums[name])
                for name in layers
            },
            "outputs": outputs,
        }


def _on_device(fill: float | Tensor, x: Tensor) -> Tensor:
    """What the occluders show, of ``x``'s type, where it is; a GPU is not waited for."""
    if isinstance(fill, Tensor):
        return on_device(fill.numpy(), x.device).to(x.dtype)
    return x.new_full((), fill)


def _spatial_sum(maps: Tensor) -> Tensor:
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else maps.dtype
    return maps.sum((-2, -1), dtype=wide)


def _strongest_map(layer: str, maps: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """The map of each image that holds the largest single activation [n], its sum [n], and the
    maps' shape."""
    channels = maps.amax((2, 3)).argmax(1)
    image = torch.arange(len(maps), device=maps.device)
    return channels, _spatial_sum(maps[image, channels]), maps.shape[1:]


# --- the arguments --------------------------------------------------------------------------------


def usual_occluder(image_size: tuple[int, int]) -> tuple[int, int]:
    """The occluder's side and its stride in pixels where the caller names none: the paper's 50 and
    8 where the shorter side of the image is 192 to 256, else the same shares of it as of 224."""
    side = min(image_size)
    if 192 <= side <= 256:
        return 50, 8
    return max(1, round(50 * side / 224)), max(1, round(8 * side / 224))


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
        first = torch.arange(0, min(length, length - occluder + step), step)
        axes.append(torch.stack([first, (first + occluder).clamp_max(length)], dim=1))
    rows, columns = axes
    boxes = torch.empty(len(rows), len(columns), 4, dtype=torch.int64)
    boxes[..., 0::2] = rows[:, None]
    boxes[..., 1::2] = columns
    return boxes.flatten(0, 1), (len(rows), len(columns))


def own_boxes(positions: Tensor, image_size: tuple[int, int]) -> Tensor:
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
    boxes = plain(positions).detach().cpu().clamp_min(0).minimum(limits)
    empty = (boxes[:, :2] >= boxes[:, 2:]).any(1)
    if bool(empty.any()):
        first = int(empty.nonzero()[0])
        raise ValueError(
            f"position {first}, {positions[first].tolist()} as (y0, x0, y1, x1), hides nothing of "
            f"an image of {image_size[0]}x{image_size[1]} pixels"
        )
    return boxes


def kept_classes(classes: object, target: Tensor, count: int) -> Tensor | None:
    """The chosen classes and the targets [N], int64, ascending; None for all."""
    if classes is None:
        return None
    chosen = as_ints(classes)  # none: none but the targets
    if chosen is None or chosen.dim() != 1:
        raise ValueError(f"classes must be ints, one for each class to keep, got {classes!r}")
    if bool(((chosen < 0) | (chosen >= count)).any()):
        raise ValueError(f"classes must be between 0 and {count - 1}, got {classes!r}")
    return torch.cat([chosen.cpu(), target]).unique()
