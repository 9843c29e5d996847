"""Hiding parts of several images, one after the other."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from zfcuda.correspondences.places import placed
from zfcuda.correspondences.signs import Change
from zfcuda.inference.checks import check_input, fill_setting, plain
from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import Layers, base_pass, find_layers, memory_limit, progress_bar
from zfcuda.results.correspondence import CorrespondenceResult

_ROUNDING = 64  # in machine epsilons of the largest feature; see `correspondence`


@torch.inference_mode(False)  # nothing made here is an inference tensor
def correspondence(
    model: nn.Module,
    images: Tensor,
    parts: Mapping[str, Tensor],
    layers: Layers,
    controls: Sequence[str] = (),
    fill: float | Sequence[float] | Tensor = 0.0,
    tolerance: float | None = None,
    max_memory: int | None = None,
    progress: bool = False,
) -> CorrespondenceResult:
    """Table 1 of the paper: does hiding the same part change every image's features alike?

    Of each image i, a part is hidden and the change of a layer's output eps_i = x_i - x~_i taken,
    original minus occluded; the measure is the mean over pairs i != j of the Hamming distance
    between sign(eps_i) and sign(eps_j), divided by the number of elements.

    Signs are -1, 0 and +1, and two elements differ where these do: 0 against +1 counts as much as
    -1 against +1. Zeros are frequent, since a part reaches only its forward cone and a ReLU's
    output stays 0 outside its range; elements that change in neither image count as alike. A change
    of at most ``tolerance`` times the largest magnitude among x_i's elements has the sign 0: two
    passes over equal values may round differently.

    Places differ in what can change at all: two parts hidden at different places change different
    elements of an early layer, whatever the network knows about parts. Where the images are
    aligned, compare with random places that are the same for all images, too
    (:func:`zfcuda.correspondences.random_places`).

    Args:
        model: returns logits [N,K]; runs in eval mode and is left as it was.
        images: [N,C,H,W], at least two, on the model's device and of its dtype.
        parts: name -> what hides it, int64 boxes (y0, x0, y1, x1), half open, pixels: [4] at the
            same place in all images, [N,4] at each image's own, or [R,N,4] at R places in turn,
            over whose pairs the measure is taken together.
        layers: names of ``model.named_modules()``, or the modules.
        controls: those of ``parts`` that are random places.
        fill: what is shown instead, in network input space: a number (0 is usually the mean
            colour), one per channel [C], or an image [C,H,W].
        tolerance: see above; None takes 64 machine epsilons (of float32 for 16-bit types).
        max_memory: bytes that the activations of one batch may take. The layers' outputs of all
            images are kept as well, 5 bytes an element.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or a layer whose
            output is not finite.
    """
    start = time.perf_counter()
    images = check_input(model, images)
    if len(images) < 2:
        raise ValueError("images must be at least two: parts are compared between them, got 1")
    size = (images.shape[2], images.shape[3])
    boxes = {str(name): placed(name, plain(box), len(images), size) for name, box in parts.items()}
    unknown = [name for name in controls if name not in boxes]
    if unknown or not boxes:
        raise ValueError(f"controls must be among the parts {[*boxes]}, got {unknown or 'no part'}")
    names = [*find_layers(model, layers)]
    if not names:
        raise ValueError("layers must name at least one layer")
    tolerance = _tolerance(tolerance, images.dtype)
    fill = fill_setting(fill, images, with_image=True)
    limit = memory_limit(max_memory, images.device)

    differing: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    changed: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    with evaluating(model):
        _, received, fitting = base_pass(
            model, images.detach(), names, lambda _, maps: maps.flatten(1).clone(), limit
        )
        features = {layer: torch.cat(received[layer]) for layer in names}
        change = Change(model, images.detach(), features, fill, tolerance, limit, fitting)
        passes = sum(len(places) for places in boxes.values())
        with progress_bar(passes * len(images), progress, "correspondence") as advance:
            for part, places in boxes.items():
                found = [change.signs(place, advance) for place in places]
                for layer in names:
                    differing[layer][part] = torch.stack([each[layer][0] for each in found])
                    changed[layer][part] = torch.stack([each[layer][1] for each in found])
    return CorrespondenceResult(
        layers=tuple(names),
        parts=tuple(boxes),
        controls=tuple(controls),
        boxes=boxes,
        differing=differing,
        changed=changed,
        elements={layer: features[layer].shape[1] for layer in names},
        tolerance=tolerance,
        fill=fill,
        image_size=size,
        seconds=time.perf_counter() - start,
    )


def _tolerance(value: float | None, dtype: torch.dtype) -> float:
    if value is None:
        return (
            _ROUNDING * torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        )
    if not 0 <= value < 1:
        raise ValueError(f"tolerance must be a share from 0 to below 1, got {value!r}")
    return float(value)
