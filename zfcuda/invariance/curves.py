"""The model's answer along one family of transformations: turning, moving, scaling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from zfcuda.invariance.experiment import Fill, Layers, Target, transformed
from zfcuda.invariance.values import Values, numbers
from zfcuda.results.base import Outputs
from zfcuda.results.invariance import InvarianceResult


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
        max_memory: bytes that the activations of one batch may take; by default half of what is
            free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
    """
    angles = numbers(range(0, 360, 5) if values is None else values, "values")
    return transformed(
        "rotation", model, x, angles, target, layers, fill, max_memory, progress, outputs
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
    outputs: Outputs | None = None,
) -> InvarianceResult:
    """The model's output for the image moved by (down, right) pixels, fractions allowed.

    ``values`` are M such pairs; a plain number moves downwards only; None takes the paper's -60 to
    60 pixels vertically, in steps of 5. The other arguments and the errors are those of
    :func:`rotation`.
    """
    shifts = numbers(range(-60, 61, 5) if values is None else values, "values", pairs=True)
    return transformed(
        "translation", model, x, shifts, target, layers, fill, max_memory, progress, outputs
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
    outputs: Outputs | None = None,
) -> InvarianceResult:
    """The model's output for the image enlarged about its centre by each of M positive factors.

    None takes the paper's 1 to 1.8, in steps of 0.05. Shrinking (a factor below 1) samples without
    smoothing. The other arguments and the errors are those of :func:`rotation`.
    """
    factors = numbers([1 + step / 20 for step in range(17)] if values is None else values, "values")
    return transformed(
        "scaling", model, x, factors, target, layers, fill, max_memory, progress, outputs
    )
