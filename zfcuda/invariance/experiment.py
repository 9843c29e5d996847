"""Images and what the model makes of them, under every transformation of one kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.inference.checks import check_input, choose_target, fill_setting, to_result
from zfcuda.inference.guards import evaluating
from zfcuda.inference.interception import Operations
from zfcuda.inference.passes import (
    Layers,
    base_pass,
    find_layers,
    memory_limit,
    outputs_of,
    progress_bar,
    require_shape,
    variant_passes,
)
from zfcuda.invariance.matrices import rotation_matrices, scaling_matrices, translation_matrices
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.invariance import InvarianceResult

Kind = Literal["rotation", "translation", "scaling"]
Target = int | Sequence[int] | Tensor | None
Fill = float | Sequence[float] | Tensor

MATRICES: dict[Kind, Callable[[Tensor, tuple[int, int]], Tensor]] = {
    "rotation": rotation_matrices,
    "translation": translation_matrices,
    "scaling": scaling_matrices,
}


@torch.inference_mode(False)  # nothing made here is an inference tensor
def transformed(
    kind: Kind,
    model: nn.Module,
    x: Tensor,
    values: Tensor,
    target: Target,
    layers: Layers,
    fill: Fill,
    max_memory: int | None,
    progress: bool,
    outputs: Outputs | None,
) -> InvarianceResult:
    """The experiment with checked ``values``, float64 [M] or [M,2]; the other arguments and errors
    are :func:`zfcuda.rotation`'s."""
    start = time.perf_counter()
    x = check_input(model, x)
    if outputs is not None:
        check_outputs(outputs)
    matrices = MATRICES[kind](values, (x.shape[2], x.shape[3]))
    fill = fill_setting(fill, x, with_image=False)
    names = list(find_layers(model, layers))
    limit = memory_limit(max_memory, x.device)

    seen = Operations()
    with evaluating(model):
        base, received, fitting = base_pass(
            model, x, names, lambda layer, maps: maps.clone(), limit, seen
        )
        outputs = outputs_of(outputs, to_result(base), seen)
        chosen = choose_target(target, to_result(base))
        features = {name: torch.cat(received[name]) for name in names}

        def warped(images: Tensor, indices: slice) -> Tensor:
            return ops.warp_affine(images, matrices[indices], fill)

        def distance(layer: str, maps: Tensor, images: slice) -> Tensor:
            require_shape(layer, maps, features[layer].shape[1:])
            return _norm(maps - features[layer][images, None])

        with progress_bar(len(x) * len(matrices), progress, kind) as advance:
            logits, distances = variant_passes(
                model, x.detach(), warped, len(matrices), names, distance, fitting, advance
            )
    return InvarianceResult(
        kind=kind,
        values=values.clone(),
        logits=logits,
        base_logits=to_result(base),
        target=chosen,
        distances=distances,
        fill=fill,
        seconds=time.perf_counter() - start,
        norms={name: to_result(_norm(maps)) for name, maps in features.items()},
        outputs=outputs,
    )


def _norm(maps: Tensor) -> Tensor:
    """Euclidean norm over channels and pixels, the last three dimensions."""
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(maps, dim=(-3, -2, -1), dtype=wide)
