"""Images and what the model makes of them, under every transformation of one kind, or of several
families."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from zfcuda import ops
from zfcuda.inference.checks import (
    check_input,
    choose_target,
    concatenated,
    evaluating,
    fill_setting,
    plain,
    to_result,
    to_results,
)
from zfcuda.inference.layers import (
    Layers,
    find_layers,
    gives_features,
    outputs_by_call,
    require_shape,
)
from zfcuda.inference.passes import Passes, memory_limit, progress_bar
from zfcuda.results.base import Outputs, check_outputs
from zfcuda.results.invariance import InvarianceResult, InvarianceStudy
from zfcuda.storage.identity import precision

Values = Sequence[float] | Tensor | None


def numbers(values: Any, pairs: bool = False) -> Tensor:
    """``values`` as float64 [M], or [M,2] with ``pairs`` (a plain number v is then (v, 0)).

    Raises:
        TypeError: no sequence of numbers.
        ValueError: an empty one, of the wrong shape, or with numbers that are not finite.
    """
    try:
        given = values if isinstance(values, Tensor) else list(values)
        found = plain(torch.as_tensor(given, dtype=torch.float64)).cpu()
    except (TypeError, ValueError) as error:
        raise TypeError(f"values must be a sequence of numbers, got {values!r}") from error
    if pairs and found.dim() == 1:
        found = torch.stack([found, torch.zeros_like(found)], dim=1)
    valid = found.shape[1:] == ((2,) if pairs else ()) and found.dim() > 0
    if not valid or len(found) == 0 or not bool(found.isfinite().all()):
        wanted = "finite numbers or pairs (down, right)" if pairs else "finite numbers"
        raise ValueError(f"values must be a non-empty sequence of {wanted}, got {values!r}")
    return found


def rotation_matrices(values: Sequence[float] | Tensor, image_size: tuple[int, int]) -> Tensor:
    """Counter-clockwise rotations by degrees about the centre of an (H, W) image."""
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
    transformations: Mapping[str, tuple[Kind, Tensor]],
    model: nn.Module,
    x: Tensor,
    target: Target,
    layers: Layers,
    fill: Fill,
    max_memory: int | None,
    progress: bool,
    outputs: Outputs | None,
) -> dict[str, InvarianceResult]:
    """The experiments, by name, with checked values, float64 [M] or [M,2], of their kinds; the
    other arguments and errors are :func:`zfcuda.rotation`'s."""
    start = time.perf_counter()
    x = check_input(model, x)
    if outputs is not None:
        check_outputs(outputs)
    size = (x.shape[2], x.shape[3])
    matrices = {name: MATRICES[kind](own, size) for name, (kind, own) in transformations.items()}
    fill = fill_setting(fill, x, with_image=False)
    names = list(find_layers(model, layers))
    passes = Passes(model, names, memory_limit(max_memory, x.device))
    results: dict[str, InvarianceResult] = {}
    with evaluating(model):
        count = len(x) * sum(map(len, matrices.values()))
        base, received = passes.images(x, lambda layer, maps: maps.clone(), count)
        base = to_result(base)
        outputs = passes.outputs(outputs, base)
        chosen = choose_target(target, base)
        features = {name: concatenated(received[name]) for name in names}
        norms = to_results({name: _norm(maps) for name, maps in features.items()})

        def distance(layer: str, maps: Tensor, images: slice) -> Tensor:
            require_shape(layer, maps, features[layer].shape[1:])
            return _norm(maps - features[layer][images, None])

        for name, (kind, values) in transformations.items():

            def warped(images: Tensor, indices: slice, own: Tensor = matrices[name]) -> Tensor:
                return ops.warp_affine(images, own[indices], fill)

            with progress_bar(len(x) * len(values), progress, kind) as advance:
                logits, distances = passes.variants(
                    x.detach(), warped, len(values), distance, advance
                )
            results[name] = InvarianceResult(
                kind=kind,
                values=values.clone(),
                logits=logits,
                base_logits=base.clone(),
                target=chosen.clone(),
                distances=distances,
                fill=fill,
                seconds=time.perf_counter() - start,
                norms={layer: own.clone() for layer, own in norms.items()},
                outputs=outputs,
                precision=precision(x.device, x.dtype),
            )
            start = time.perf_counter()
    return results


def _norm(maps: Tensor) -> Tensor:
    """Euclidean norm over channels and pixels, the last three dimensions."""
    wide = torch.float32 if maps.dtype in (torch.float16, torch.bfloat16) else None
    return torch.linalg.vector_norm(maps, dim=(-3, -2, -1), dtype=wide)


def rotation(
    model: nn.Module,
    x: Tensor,
    values: Values = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
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
        layers: names of ``model.named_modules()``, or the modules; for each, the Euclidean distance
            of its output (of its last call's, where it is called several times) to that of the
            untransformed image is recorded.
        fill: what shows outside the image, in network input space: a number (0 is usually the mean
            colour) or one per channel [C].
        max_memory: bytes that the activations of one batch may take; None takes the default of
            :func:`zfcuda.inference.passes.memory_limit`.
        progress: show a progress bar.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    angles = numbers(range(0, 360, 5) if values is None else values)
    own = {"rotation": ("rotation", angles)}
    return transformed(own, model, x, target, layers, fill, max_memory, progress, outputs)[
        "rotation"
    ]


def translation(
    model: nn.Module,
    x: Tensor,
    values: Sequence[float] | Sequence[tuple[float, float]] | Tensor | None = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
) -> InvarianceResult:
    """The model's output for the image moved by (down, right) pixels, fractions allowed.

    ``values`` are M such pairs; a plain number moves downwards only; None takes the paper's -60 to
    60 pixels vertically, in steps of 5. The other arguments and the errors are those of
    :func:`rotation`.
    """
    shifts = numbers(range(-60, 61, 5) if values is None else values, pairs=True)
    own = {"translation": ("translation", shifts)}
    return transformed(own, model, x, target, layers, fill, max_memory, progress, outputs)[
        "translation"
    ]


def scaling(
    model: nn.Module,
    x: Tensor,
    values: Values = None,
    target: Target = None,
    layers: Layers = (),
    fill: Fill = 0.0,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
) -> InvarianceResult:
    """The model's output for the image enlarged about its centre by each of M positive factors.

    None takes the paper's 1 to 1.8, in steps of 0.05. Shrinking (a factor below 1) samples without
    smoothing. The other arguments and the errors are those of :func:`rotation`.
    """
    factors = numbers([1 + step / 20 for step in range(17)] if values is None else values)
    own = {"scaling": ("scaling", factors)}
    return transformed(own, model, x, target, layers, fill, max_memory, progress, outputs)[
        "scaling"
    ]


# --- several families of them ------------------------------------------------------------------


def early_and_late(model: nn.Module, x: Tensor) -> list[str]:
    """Two layers to compare: what stands for the paper's layers 1 and 7.

    The early one is the first max-pooling (without any, the first convolution). The late one is
    what the last layer with weights, the classifier, takes. A module that is called several times
    lies where it is called last.

    Raises:
        ValueError: the model has no two such layers; name them then.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    found = outputs_by_call(model, x, [*modules], lambda _, output: output)
    order: list[str] = []
    for name, output in found.items():
        # A container gives what its last module gives: the innermost name says more.
        known = any(found[other] is output for other in order)
        if gives_features(modules[name], output) and not known:
            order.append(name)

    def of(*kinds: type[nn.Module]) -> list[str]:
        return [name for name in order if isinstance(modules[name], kinds)]

    weighted = of(nn.Conv2d, nn.Linear)
    late = order[: order.index(weighted[-1])] if weighted else []
    # A pool that is used throughout lies where it is called last: it may be the late one itself.
    early = [name for name in (*of(nn.MaxPool2d)[:1], *of(nn.Conv2d)[:1]) if name in late[:-1]]
    if not early:
        raise ValueError(
            f"no early and late layer can be told apart among {order[:8]}; name two in layers"
        )
    return [early[0], late[-1]]


_EXAMPLES = 4  # transformed images that a family shows


class _Family(NamedTuple):
    """Transformations along one axis of a figure."""

    kind: Kind
    read: Callable[[Values], Tensor]  # the user's values as that takes them
    usual: Callable[[int, int], list[float]]  # the paper's, for an image of (height, width)


def _shifts(side: int) -> list[float]:
    """Up to the paper's 60 of 224 pixels both ways, in whole pixels."""
    return sorted({float(round(side * 60 / 224 * step / 12)) for step in range(-12, 13)})


def _rightwards(values: Values) -> Tensor:
    shifts = numbers(values)
    return torch.stack([torch.zeros_like(shifts), shifts], dim=1)


_downwards = partial(numbers, pairs=True)

_FAMILIES = {
    "vertical translation": _Family("translation", _downwards, lambda h, w: _shifts(h)),
    "horizontal translation": _Family("translation", _rightwards, lambda h, w: _shifts(w)),
    "scale": _Family("scaling", numbers, lambda h, w: [1 + step / 20 for step in range(17)]),
    "rotation": _Family("rotation", numbers, lambda h, w: [float(a) for a in range(0, 361, 5)]),
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
    outputs: Outputs | None = None,
) -> InvarianceStudy:
    """Several images moved, enlarged and turned: figure 5 of the paper.

    Args:
        model, x, target, fill, max_memory, progress, outputs: as :func:`zfcuda.rotation`; for the
            paper's figure ``target`` is each image's true class.
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
    x = check_input(model, x)
    names = [f"image {i}" for i in range(len(x))] if names is None else [*names]
    if len(names) != len(x):
        raise ValueError(f"names must be {len(x)}, one for each image, got {len(names)}")
    chosen = families_of(transformations, x)
    layers = early_and_late(model, x) if layers is None else [*find_layers(model, layers)]

    amounts = {
        family: (_FAMILIES[family].kind, _FAMILIES[family].read(values))
        for family, values in chosen.items()
    }
    experiments = transformed(
        amounts, model, x, target, layers, fill, max_memory, progress, outputs
    )
    examples, example_values = {}, {}
    for family, (kind, values) in amounts.items():
        some = values[_spread(len(values), _EXAMPLES)]
        matrices = MATRICES[kind](some, (x.shape[2], x.shape[3]))
        examples[family] = to_result(
            ops.warp_affine(x[:1].detach(), matrices, experiments[family].fill)[0]
        )
        example_values[family] = some.sum(1) if some.dim() == 2 else some  # one of a pair is 0
    return InvarianceStudy(
        names=tuple(map(str, names)),
        images=to_result(x).clone(),
        layers=tuple(layers),
        experiments=experiments,
        examples=examples,
        example_values=example_values,
        precision=precision(x.device, x.dtype),
    )


def families_of(transformations: Mapping[str, Values] | None, x: Tensor) -> dict[str, Values]:
    """The ``transformations`` of :func:`invariance_study` for images ``x`` [N,C,H,W], with the
    usual values where none are given."""
    chosen = dict.fromkeys(_FAMILIES) if transformations is None else dict(transformations)
    unknown = [*(chosen.keys() - _FAMILIES.keys())]
    if unknown or not chosen:
        raise ValueError(f"transformations must be of {[*_FAMILIES]}, got {unknown or chosen}")
    return {
        family: _FAMILIES[family].usual(x.shape[2], x.shape[3]) if values is None else values
        for family, values in chosen.items()
    }


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` indices of ``count``, in the middles of as many equal parts."""
    wanted = min(count, wanted)
    return [int((part + 0.5) * count / wanted) for part in range(wanted)]
