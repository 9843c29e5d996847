"""How far the model's answer survives turning, moving and scaling the image (Zeiler & Fergus 2014,
section 4.1, figure 5; rotation is the talk's figure 6)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

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
    layer_outputs,
    memory_limit,
    progress_bar,
    to_result,
    variant_passes,
)
from zfcuda.results import InvarianceResult, InvarianceStudy

Values = Sequence[float] | Tensor | None
Target = int | Sequence[int] | Tensor | None
Fill = float | Sequence[float] | Tensor
Layers = str | Sequence[str]


def rotation(
    model: nn.Module,
    x: Tensor,
    values: Values = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
) -> InvarianceResult:
    """The model's output for the image turned about its centre.

    Turning is counter-clockwise, without shear on images that are not square, bilinear, and exact
    at multiples of 90 degrees.

    Args:
        model: returns logits [N,K] for ``x``; runs in eval mode and is left as it was.
        x: [N,C,H,W], on the model's device and of its dtype. NaN is allowed and propagates.
        values: M angles in degrees; None takes 0, 5, ..., 355.
        target: the class that probabilities are about, one for all images or one per image; None
            takes what the model predicts for the untransformed image.
        layers: names of ``model.named_modules()``; for each, the Euclidean distance of its output
            to that of the untransformed image is recorded.
        fill: what shows outside the image, in network input space: a number (0 is usually the mean
            colour) or one per channel [C].
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    angles = _numbers(range(0, 360, 5) if values is None else values, "values")
    return _transformed(
        "rotation", model, x, angles, rotation_matrices, target, layers, fill, max_memory, progress
    )


def translation(
    model: nn.Module,
    x: Tensor,
    values: Sequence[float] | Sequence[tuple[float, float]] | Tensor | None = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
) -> InvarianceResult:
    """The model's output for the image moved by (down, right) pixels, fractions allowed.

    ``values`` are M such pairs; a plain number moves downwards only; None takes the paper's -60 to
    60 pixels vertically, in steps of 5. The other arguments and the errors are those of
    :func:`rotation`.
    """
    shifts = _numbers(range(-60, 61, 5) if values is None else values, "values", pairs=True)
    return _transformed(
        "translation",
        model,
        x,
        shifts,
        translation_matrices,
        target,
        layers,
        fill,
        max_memory,
        progress,
    )


def scaling(
    model: nn.Module,
    x: Tensor,
    values: Values = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
) -> InvarianceResult:
    """The model's output for the image enlarged about its centre by each of M positive factors.

    None takes the paper's 1 to 1.8, in steps of 0.05. Shrinking (a factor below 1) samples without
    smoothing. The other arguments and the errors are those of :func:`rotation`.
    """
    factors = _numbers(
        [1 + step / 20 for step in range(17)] if values is None else values, "values"
    )
    return _transformed(
        "scaling", model, x, factors, scaling_matrices, target, layers, fill, max_memory, progress
    )


# --- matrices -------------------------------------------------------------------------------------


def rotation_matrices(values: Sequence[float] | Tensor, image_size: tuple[int, int]) -> Tensor:
    """Counter-clockwise rotations by degrees about the centre of an (H, W) image.

    Like all matrices here: float64 [M,2,3], mapping output to input pixel coordinates (x, y), pixel
    centres at +0.5, as :func:`zfcuda.ops.warp_affine` takes them.
    """
    turns = [_cosine_and_sine(float(angle)) for angle in values]
    linear = torch.tensor([[[c, -s], [s, c]] for c, s in turns], dtype=torch.float64)
    return _about_centre(linear.view(-1, 2, 2), image_size)


def translation_matrices(
    values: Sequence[tuple[float, float]] | Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Shifts by (down, right) pixels: the input is read that far up and left."""
    shifts = torch.as_tensor(values, dtype=torch.float64).view(-1, 2)
    linear = torch.eye(2, dtype=torch.float64).expand(len(shifts), 2, 2)
    return torch.cat([linear, -shifts.flip(1)[..., None]], dim=2)


def scaling_matrices(values: Sequence[float] | Tensor, image_size: tuple[int, int]) -> Tensor:
    """Enlargements by positive factors about the centre of an (H, W) image.

    Raises:
        ValueError: a factor that is not positive.
    """
    factors = torch.as_tensor(values, dtype=torch.float64).view(-1, 1, 1)
    if bool((factors <= 0).any()):
        raise ValueError(f"scale factors must be positive, got {factors.min().item()}")
    return _about_centre(torch.eye(2, dtype=torch.float64) / factors, image_size)


def _cosine_and_sine(degrees: float) -> tuple[float, float]:
    """Exact at multiples of 90, where math.cos(math.radians(90)) is 6e-17."""
    exact = {0: (1.0, 0.0), 90: (0.0, 1.0), 180: (-1.0, 0.0), 270: (0.0, -1.0)}
    angle = math.fmod(degrees, 360.0) % 360.0
    return exact.get(angle) or (math.cos(math.radians(angle)), math.sin(math.radians(angle)))


def _about_centre(linear: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``linear`` [M,2,2] with the offset that leaves the image's centre in place."""
    centre = torch.tensor([image_size[1] / 2, image_size[0] / 2], dtype=torch.float64)
    return torch.cat([linear, (centre - linear @ centre)[..., None]], dim=2)


# --- the experiment -------------------------------------------------------------------------------


def _numbers(values: Any, name: str, pairs: bool = False) -> Tensor:
    """float64 [M], or [M,2] with ``pairs`` (a plain number v is then (v, 0))."""
    try:
        numbers = torch.as_tensor(
            values if isinstance(values, Tensor) else list(values), dtype=torch.float64
        ).cpu()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from error
    if pairs and numbers.dim() == 1:
        numbers = torch.stack([numbers, torch.zeros_like(numbers)], dim=1)
    valid = numbers.shape[1:] == ((2,) if pairs else ()) and numbers.dim() > 0
    if not valid or len(numbers) == 0 or not bool(numbers.isfinite().all()):
        wanted = "finite numbers or pairs (down, right)" if pairs else "finite numbers"
        raise ValueError(f"{name} must be a non-empty sequence of {wanted}, got {values!r}")
    return numbers


@torch.inference_mode(False)  # nothing made here is an inference tensor
def _transformed(
    kind: Literal["rotation", "translation", "scaling"],
    model: nn.Module,
    x: Tensor,
    values: Tensor,
    matrices_of: Any,
    target: Target,
    layers: Layers,
    fill: Fill,
    max_memory: int | None,
    progress: bool,
) -> InvarianceResult:
    start = time.perf_counter()
    check_input(model, x)
    matrices = matrices_of(values, (x.shape[2], x.shape[3]))
    fill = fill_setting(fill, x, with_image=False)
    names = list(find_layers(model, layers))
    limit = memory_limit(max_memory, x.device)

    with evaluating(model):
        base, received, fitting = base_pass(
            model, x, names, lambda layer, maps: maps.clone(), limit
        )
        chosen = choose_target(target, to_result(base))
        features = {name: torch.cat(received[name]) for name in names}

        def warped(images: Tensor, indices: slice) -> Tensor:
            return ops.warp_affine(images, matrices[indices], fill)

        def distance(layer: str, maps: Tensor, images: slice) -> Tensor:
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
    )


def _norm(maps: Tensor) -> Tensor:
    """Euclidean norm over channels and pixels, the last three dimensions."""
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(maps, dim=(-3, -2, -1), dtype=wide)


# --- several images, several families -------------------------------------------------------------

_EXAMPLES = 4  # transformed images that a family shows


def _vertical(values: Values) -> Tensor:
    return _numbers(values, "values", pairs=True)


def _horizontal(values: Values) -> Tensor:
    shifts = _numbers(values, "values")
    return torch.stack([torch.zeros_like(shifts), shifts], dim=1)


def _plain(values: Values) -> Tensor:
    return _numbers(values, "values")


# Of each family: the kind of result, its values as that takes them, its matrices.
_FAMILIES: dict[str, tuple[Any, Callable[[Values], Tensor], Any]] = {
    "vertical translation": ("translation", _vertical, translation_matrices),
    "horizontal translation": ("translation", _horizontal, translation_matrices),
    "scale": ("scaling", _plain, scaling_matrices),
    "rotation": ("rotation", _plain, rotation_matrices),
}


@torch.inference_mode(False)  # nothing made here is an inference tensor
def invariance_study(
    model: nn.Module,
    x: Tensor,
    layers: Layers | None = None,
    target: Target = None,
    names: Sequence[str] | None = None,
    transformations: Mapping[str, Values] | None = None,
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
) -> InvarianceStudy:
    """Several images moved, enlarged and turned: figure 5 of the paper.

    Args:
        model, x, target, fill, max_memory, progress: as :func:`rotation`; for the paper's figure
            ``target`` is each image's true class.
        layers: whose features are compared; None takes an early and a late one
            (:func:`early_and_late`).
        names: what to call the images; None numbers them.
        transformations: families ("vertical translation", "horizontal translation", "scale",
            "rotation") and their values, None for the defaults: shifts of up to 60/224 of the
            image's side (the paper's 60 pixels) in 25 steps, factors 1 to 1.8, 0 to 360 degrees.
            None takes all four.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    check_input(model, x)
    names = [f"image {i}" for i in range(len(x))] if names is None else [*names]
    if len(names) != len(x):
        raise ValueError(f"names must be {len(x)}, one for each image, got {len(names)}")
    chosen = dict.fromkeys(_FAMILIES) if transformations is None else dict(transformations)
    unknown = [*(chosen.keys() - _FAMILIES.keys())]
    if unknown or not chosen:
        raise ValueError(f"transformations must be of {[*_FAMILIES]}, got {unknown or chosen}")
    layers = early_and_late(model, x) if layers is None else [*find_layers(model, layers)]

    experiments, examples, example_values = {}, {}, {}
    for family, values in chosen.items():
        kind, numbers_of, matrices_of = _FAMILIES[family]
        numbers = numbers_of(_defaults(family, x) if values is None else values)
        result = _transformed(
            kind, model, x, numbers, matrices_of, target, layers, fill, max_memory, progress
        )
        some = numbers[_spread(len(numbers), _EXAMPLES)]
        shown = ops.warp_affine(x[:1].detach(), matrices_of(some, tuple(x.shape[2:])), result.fill)
        experiments[family] = result
        examples[family] = to_result(shown[0])
        example_values[family] = some.sum(1) if some.dim() == 2 else some  # one of a pair is 0
    return InvarianceStudy(
        names=tuple(map(str, names)),
        images=to_result(x).clone(),
        layers=tuple(layers),
        experiments=experiments,
        examples=examples,
        example_values=example_values,
    )


def _defaults(family: str, x: Tensor) -> list[float]:
    """The paper's axes, shifts as shares of the image."""
    if family == "scale":
        return [1 + step / 20 for step in range(17)]
    if family == "rotation":
        return [float(angle) for angle in range(0, 361, 5)]
    most = x.shape[2 if family == "vertical translation" else 3] * 60 / 224
    return sorted({float(round(most * step / 12)) for step in range(-12, 13)})


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices of ``count``, in the middles of as many equal parts."""
    wanted = min(count, wanted)
    return [int((part + 0.5) * count / wanted) for part in range(wanted)]


def early_and_late(model: nn.Module, x: Tensor) -> list[str]:
    """Two layers to compare: what stands for the paper's layers 1 and 7.

    The early one is the first max-pooling (without any, the first convolution). The late one is
    what the last layer with weights, the classifier, takes.

    Raises:
        ValueError: the model has no two such layers; name them then.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    with evaluating(model), layer_outputs(model, [*modules], lambda _, output: output) as found:
        model(x[:1].clone())
    order: list[str] = []
    for name, output in found.items():
        maps_or_vectors = isinstance(output, Tensor) and output.dim() in (2, 4)
        passing = isinstance(modules[name], nn.Dropout | nn.Dropout2d | nn.Flatten | nn.Identity)
        # A container gives what its last module gives: the innermost name says more.
        if maps_or_vectors and not passing and all(found[other] is not output for other in order):
            order.append(name)

    def of(*kinds: type[nn.Module]) -> list[str]:
        return [name for name in order if isinstance(modules[name], kinds)]

    early = [*of(nn.MaxPool2d), *of(nn.Conv2d)]
    weighted = of(nn.Conv2d, nn.Linear)
    late = order[: order.index(weighted[-1])] if weighted else []
    if not early or not late or order.index(early[0]) >= order.index(late[-1]):
        raise ValueError(
            f"no early and late layer can be told apart among {order[:8]}; name two in layers"
        )
    return [early[0], late[-1]]
