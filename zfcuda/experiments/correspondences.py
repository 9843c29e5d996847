"""Whether a network takes a part of different objects for the same thing (Zeiler & Fergus 2014,
section 4.4, table 1)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.inference.checks import check_input, concatenated, evaluating, fill_setting, plain
from zfcuda.inference.layers import Layers, find_layers
from zfcuda.inference.passes import Passes, memory_limit, progress_bar, spans
from zfcuda.results.correspondence import CorrespondenceResult
from zfcuda.storage.identity import precision


def random_places(
    count: int,
    images: int,
    image_size: tuple[int, int],
    size: tuple[int, int],
    seed: int = 0,
    together: bool = False,
) -> Tensor:
    """Boxes int64 [count,images,4] of one size, uniformly anywhere inside the image.

    Args:
        count: how many draws.
        image_size, size: (height, width) of images and boxes, pixels.
        together: draw one place for all images instead of each its own.

    Raises:
        ValueError: boxes larger than the image.
    """
    if not (0 < size[0] <= image_size[0] and 0 < size[1] <= image_size[1]):
        raise ValueError(f"size must be within the image's {image_size}, got {size}")
    rng = torch.Generator().manual_seed(seed)
    shape = (count, 1 if together else images)
    corners = [
        torch.randint(whole - part + 1, shape, generator=rng)
        for whole, part in zip(image_size, size, strict=True)
    ]
    corner = torch.stack(corners, -1).expand(count, images, 2)
    return torch.cat([corner, corner + torch.tensor(size)], -1)


def placed(name: str, boxes: Tensor, n: int, size: tuple[int, int]) -> Tensor:
    """A part's boxes, int64 [4], [N,4] or [R,N,4], as [R,N,4], clipped to the image of ``size``."""
    if not isinstance(boxes, Tensor) or boxes.dtype != torch.int64:
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"parts[{name!r}] must be an int64 tensor of (y0, x0, y1, x1), got {got}")
    if tuple(boxes.shape) not in ((4,), (n, 4)) and (
        boxes.dim() != 3 or tuple(boxes.shape[1:]) != (n, 4) or len(boxes) == 0
    ):
        raise ValueError(
            f"parts[{name!r}] must have shape [4], [{n}, 4] or [R, {n}, 4], got {list(boxes.shape)}"
        )
    limits = torch.tensor([*size, *size])
    clipped = boxes.detach().cpu().expand(boxes.shape[0] if boxes.dim() == 3 else 1, n, 4)
    clipped = clipped.clamp_min(0).minimum(limits)
    empty = (clipped[..., :2] >= clipped[..., 2:]).any(-1)
    if bool(empty.any()):
        image = int(empty.nonzero()[0, 1])
        raise ValueError(
            f"parts[{name!r}] hides nothing of image {image}, which has {size[0]}x{size[1]} pixels"
        )
    return clipped


_EXACT = 2**20  # elements whose signs float32 sums count exactly


def _changes(
    passes: Passes,
    x: Tensor,
    features: Mapping[str, Tensor],
    boxes: Tensor,
    fill: float | Tensor,
    tolerance: float,
    advance: Callable[[int], Any],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each layer, how many signs differ between two images, int64 [N,N], and the share of
    elements that changed, float64 [N], where each image's box [N,4] is hidden.

    Args:
        features: by layer [N,F], those of the images ``x`` [N,C,H,W] as they are.
        tolerance: changes of at most this share of an image's largest feature count as none.
        advance: called with the number of images that are done.
    """
    signs = {layer: torch.empty_like(own, dtype=torch.int8) for layer, own in features.items()}
    for some in spans(0, len(x), passes.together):
        pairs = zip(x[some], boxes[some], strict=True)
        hidden = concatenated([ops.occlude(one[None], box[None], fill)[:, 0] for one, box in pairs])
        for layer, occluded in _features(passes, hidden).items():
            original = features[layer][some]
            change = original - occluded
            if not bool(change.isfinite().all()):
                raise ValueError(
                    f"layer {layer!r} gives values that are not finite: none has a sign"
                )
            zero = change.abs() <= tolerance * original.abs().amax(1, keepdim=True)
            signs[layer][some] = change.sign().masked_fill_(zero, 0)
        advance(len(hidden))
    return {layer: _compared(own) for layer, own in signs.items()}


def _features(passes: Passes, x: Tensor, more: int = 0) -> dict[str, Tensor]:
    """By layer [N,F]; ``more``: images that will follow."""
    _, received = passes.images(x, lambda _, maps: maps.flatten(1).clone(), more)
    return {layer: concatenated(parts) for layer, parts in received.items()}


def _compared(signs: Tensor) -> tuple[Tensor, Tensor]:
    """How many elements of ``signs`` int8 [N,F] differ between each two rows, int64 [N,N], and the
    share of each row's that are not 0, float64 [N].

    As matrix products: of the elements that are non-zero in both rows, (both - product) / 2 differ,
    and of the others those that are non-zero in one.
    """
    n, elements = signs.shape
    differing = torch.zeros(n, n, dtype=torch.float64)
    for columns in spans(0, elements, _EXACT):
        sign = signs[:, columns].float()
        some = sign.abs()
        with torch.autocast(signs.device.type, enabled=False):  # TF32 has them all, counts stay
            both, product = (some @ some.T).cpu().double(), (sign @ sign.T).cpu().double()
        own = both.diagonal()
        differing += (both - product) / 2 + own[:, None] + own - 2 * both
    changed = (signs != 0).sum(1).cpu().double() / elements
    return differing.long(), changed


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
    (:func:`zfcuda.experiments.correspondences.random_places`).

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
    images = check_input(model, images).detach()
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
    if tolerance is None:
        tolerance = _ROUNDING * torch.finfo(torch.promote_types(images.dtype, torch.float32)).eps
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be a share from 0 to below 1, got {tolerance!r}")
    fill = fill_setting(fill, images, with_image=True)
    passes = Passes(model, names, memory_limit(max_memory, images.device))

    differing: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    changed: dict[str, dict[str, Tensor]] = {layer: {} for layer in names}
    with evaluating(model):
        hidden = len(images) * sum(map(len, boxes.values()))
        features = _features(passes, images, hidden)
        with progress_bar(hidden, progress, "correspondence") as advance:
            for part, places in boxes.items():
                found = [
                    _changes(passes, images, features, place, fill, tolerance, advance)
                    for place in places
                ]
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
        tolerance=float(tolerance),
        fill=fill,
        image_size=size,
        seconds=time.perf_counter() - start,
        precision=precision(images.device, images.dtype),
    )
