"""Occlusion by whole passes: the model itself, called for every position."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.cones.occluding import summary
from zfcuda.inference.checks import choose_target, to_result
from zfcuda.inference.interception import Operations
from zfcuda.inference.passes import base_pass, outputs_of, require_shape, variant_passes
from zfcuda.results.base import Outputs
from zfcuda.results.occlusion import LayerSums
from zfcuda.sensitivity.found import Found
from zfcuda.sensitivity.request import Request, kept_classes


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
    seen = Operations()
    logits, strongest, fitting = base_pass(model, x, layers, _strongest_map, request.limit, seen)
    base_logits = to_result(logits)
    kind = outputs_of(outputs, base_logits, seen)
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

    logits, sums = variant_passes(
        model, x.detach(), occluded, len(request.boxes), layers, map_sum, fitting, advance
    )
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
