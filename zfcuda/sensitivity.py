"""Occlusion: which part of the image carries the decision (Zeiler & Fergus 2014, section 4.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda._running import (
    base_pass,
    check_input,
    choose_target,
    evaluating,
    fill_setting,
    find_layers,
    memory_limit,
    pair,
    progress_bar,
    to_result,
    variant_passes,
)
from zfcuda.results import LayerSums, OcclusionResult


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] = 50,
    stride: int | tuple[int, int] = 8,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: str | Sequence[str] = (),
    method: Literal["auto", "dense"] = "auto",
    score: Literal["logit", "probability"] = "logit",
    max_memory: int | None = None,
    progress: bool = False,
) -> OcclusionResult:
    """The model's output with a rectangle of the image hidden, for a grid of rectangles.

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
            colour), one per channel [C], or an image [C,H,W].
        layers: names of ``model.named_modules()``; for each, the spatial sum of the map that is
            strongest without occluder is recorded at every position (figure 7b).
        method: "dense" runs a full pass for each position; "auto" chooses it.
        score: what :meth:`OcclusionResult.to_attribution` is made of.
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    start = time.perf_counter()
    check_input(model, x)
    if method not in ("auto", "dense"):
        raise ValueError(f"method must be 'auto' or 'dense' in this version, got {method!r}")
    if score not in ("logit", "probability"):
        raise ValueError(f"score must be 'logit' or 'probability', got {score!r}")
    image_size = (x.shape[2], x.shape[3])
    size, stride = pair(size, "size"), pair(stride, "stride")
    boxes, grid = occluder_grid(image_size, size, stride)
    fill = fill_setting(fill, x, with_image=True)
    names = list(find_layers(model, layers))
    limit = memory_limit(max_memory, x.device)

    with evaluating(model):
        base, strongest, fitting = base_pass(model, x, names, _strongest_map, limit)
        chosen = choose_target(target, to_result(base))
        channels = {name: torch.cat([part[0] for part in strongest[name]]) for name in names}
        base_sums = {name: torch.cat([part[1] for part in strongest[name]]) for name in names}

        def occluded(images: Tensor, positions: slice) -> Tensor:
            return ops.occlude(images, boxes[positions], fill)

        def map_sum(layer: str, maps: Tensor, images: slice) -> Tensor:
            index = channels[layer][images, None, None].expand(-1, maps.shape[1], 1)
            index = index[..., None, None].expand(-1, -1, -1, *maps.shape[3:])
            return _spatial_sum(maps.gather(2, index)[:, :, 0])

        with progress_bar(len(x) * len(boxes), progress, "occlusion") as advance:
            logits, sums = variant_passes(
                model, x.detach(), occluded, len(boxes), names, map_sum, fitting, advance
            )
    return OcclusionResult(
        logits=logits,
        base_logits=to_result(base),
        target=chosen,
        boxes=boxes,
        grid=grid,
        size=size,
        stride=stride,
        image_size=image_size,
        fill=fill,
        layers={
            name: LayerSums(name, channels[name].cpu(), to_result(base_sums[name]), sums[name])
            for name in names
        },
        seconds=time.perf_counter() - start,
        score=score,
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
