"""The experiment, and its plan beforehand."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zfcuda.cones.planning import Plan
from zfcuda.cones.profile import DeviceProfile
from zfcuda.experiments.occlusion.engines import Method, Request, Score, engine_for
from zfcuda.inference.checks import plain
from zfcuda.inference.layers import Layers
from zfcuda.inference.passes import progress_bar
from zfcuda.results.base import Outputs
from zfcuda.results.occlusion import OcclusionResult


@torch.inference_mode(False)  # nothing made here is an inference tensor
def occlusion(
    model: nn.Module,
    x: Tensor,
    target: int | Sequence[int] | Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: float | Sequence[float] | Tensor = 0.0,
    layers: Layers = (),
    method: Method = "auto",
    score: Score = "logit",
    positions: Tensor | None = None,
    classes: Sequence[int] | Tensor | None = None,
    max_memory: int | None = None,
    progress: bool = False,
    outputs: Outputs | None = None,
    profile: DeviceProfile | None = None,
) -> OcclusionResult:
    """The model's output with a rectangle of the image hidden, for a grid of rectangles.

    The image is run once as it is; every position then recomputes only what its rectangle can
    change on each map, exactly (not an approximation), down to the layer from which whole maps
    are cheaper. :func:`plan` tells which that is. What is left is the rounding of the network's own
    convolutions and products, on GPUs by torch's defaults TF32: the result's ``precision``.

    The grid is Captum's: per axis the occluder starts at 0, s, 2s, ..., ceil((H - h) / s) + 1
    positions of them, the last one cut off at the edge (a position entirely outside, possible when
    the stride exceeds the size, is left out). Nothing else is clamped.

    Args:
        model: returns logits [N,K] for ``x``; runs in eval mode and is left as it was.
        x: [N,C,H,W], on the model's device and of its dtype. NaN is allowed and propagates.
        target: the class that scores are about, one for all images or one per image; None takes
            what the model predicts without occluder.
        size, stride: of the occluder in pixels, an int or (height, width), at most the image's.
            None follows the image's shorter side s: the paper's 50 and 8 where s is 192 to 256,
            else round(50 s / 224) and round(8 s / 224), at least 1. The result holds both.
        fill: what the occluder shows, in network input space: a number (0 is usually the mean
            colour), one per channel [C], or an image [C,H,W], such as a blurred one.
        layers: names of ``model.named_modules()``, or the modules; for each, the spatial sum of the
            map that is strongest without occluder is recorded at every position (figure 7b).
        method: "cone" recomputes what can change, wherever it can be told; "dense" runs a full pass
            for each position; "auto" does what is faster at every layer. A model that
            cannot be traced runs dense under "auto", with a warning that says why.
        score: what :meth:`OcclusionResult.to_attribution` is made of.
        positions: boxes of your own instead of a grid, int64 [P,4] of (y0, x0, y1, x1), half open,
            pixels; clipped to the image, which each has to meet. ``size`` and ``stride`` then have
            no effect.
        classes: keep only these classes' logits (and the targets'), in ascending order, each once
            (``result.classes``), no others than the targets' if it is empty; probabilities and
            labels still take all classes into account. None keeps all.
        max_memory: bytes that the activations of one batch may take, at least one
            position's; None takes the default of :func:`zfcuda.inference.passes.memory_limit`.
        progress: show a progress bar.
        outputs: what the model returns, logits or probabilities, as :func:`zfcuda.predict`; decided
            on the images without occluder.
        profile: what is fast on the device; None takes what is known of it, which :func:`plan`
            shows. It decides what is computed together, and so the last bits.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, or method "cone" for a
            model that cannot be traced.
    """
    start = time.perf_counter()
    x = plain(x)
    request = Request(
        size, stride, fill, layers, method, score, positions, max_memory, outputs, profile
    )
    engine = engine_for(model, x, request, stacklevel=5)
    with progress_bar(len(x) * engine.plan.positions, progress, "occlusion") as advance:
        return engine(x, target, classes, advance, start)


def plan(
    model: nn.Module,
    x: Tensor,
    size: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    layers: Layers = (),
    method: Method = "auto",
    positions: Tensor | None = None,
    max_memory: int | None = None,
    profile: DeviceProfile | None = None,
) -> Plan:
    """What :func:`occlusion` would do with the same arguments: which steps run inside cones, where
    whole maps begin, and the predicted speed-up. Runs the model on one image.

    Returns:
        A :class:`zfcuda.Plan`; ``print`` shows it as a table.

    Raises:
        TypeError, ValueError: as :func:`occlusion`.
    """
    request = Request(
        size,
        stride,
        layers=layers,
        method=method,
        positions=positions,
        max_memory=max_memory,
        profile=profile,
    )
    return engine_for(model, x, request).plan
