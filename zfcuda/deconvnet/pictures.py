"""Projections as whole pictures: :func:`zfcuda.deconv`, :func:`zfcuda.projections`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zfcuda._units import Channel, OneChoice, Position
from zfcuda.cones.descent import Projected
from zfcuda.deconvnet.engines import carry, checked
from zfcuda.deconvnet.request import Norm, Overlap, Request, Rule, Seed
from zfcuda.inference.checks import to_result
from zfcuda.inference.passes import Layer, Layers
from zfcuda.results.projections import Projections


@torch.inference_mode(False)  # nothing made here is an inference tensor
def deconv(
    model: nn.Module,
    x: Tensor,
    layer: Layer,
    channel: Channel = None,
    position: Position = "max",
    k: int = 1,
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Tensor:
    """What a unit saw: its activation carried down to the input by the deconvnet.

    The model is any CNN; the calls it makes are followed at run time. It runs in eval mode and is
    left as it was. Going down, convolution, pooling by average, linear layers, concatenation and
    sums are transposed, ReLU, ReLU6, leaky, parametric and randomised ReLU (also spelled as a mask)
    rectify the signal, max-pooling is undone with the switches of the forward pass, batch norm
    scales, contrast normalisation lets the signal through. Any other nonlinearity or product of
    activations uses its gradient at the forward point, with one warning that names it.

    Args:
        model: takes ``x``; what it returns does not matter.
        x: [N,C,H,W], on the model's device and of its dtype. NaN is allowed and propagates.
        layer: a name of ``model.named_modules()``, or the module itself. Its own output is meant,
            before any later in-place call; of a module called several times, the last call. Maps
            [N,C,H,W], or vectors [N,F] taken as F maps of one element.
        channel: the map, one for all images or one per image; None takes the strongest, the one
            that holds the single largest activation.
        position: the unit (row, column) in the map, or "max" for its strongest.
        k: how many units: the k strongest maps when ``channel`` is None, otherwise the k strongest
            positions of that map.
        seed: the signal to start from, the unit's own activation (sign included) or a number.
        overlap: where windows of max-pooling overlap, "sum" adds what they send to one place (the
            transpose), "overwrite" lets the last window in raster order win.
        rule: "deconv", or "gradient" for the plain gradient of the unit times the seed (``norm``
            then has no effect).
        norm: contrast normalisation as "identity" or its "gradient".
        max_memory: bytes that the activations of one batch of images may take; by default half of
            what is free on a GPU, a quarter (at most 128 MiB) on a CPU.
        progress: show a progress bar.

    Returns:
        [N,C,H,W] in x's dtype and device; [N,k,C,H,W], strongest first, when k > 1. Never requires
        grad.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
        RuntimeError: the model did not call the layer, cuts its graph below it, or recomputes in
            backward.
    """
    request = Request(OneChoice(channel, position, k), seed, overlap, rule, norm)
    x, (name,) = checked(model, x, [layer])
    carried = carry(model, x, {name: request}, max_memory, progress)
    pictures = _pictures(carried[name].projected, x).unflatten(0, (len(x), k))
    return pictures[:, 0] if k == 1 else pictures


@torch.inference_mode(False)
def projections(
    model: nn.Module,
    x: Tensor,
    layers: Layers,
    channel: Channel = None,
    position: Position = "max",
    k: int = 1,
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Projections:
    """:func:`deconv` for several layers in one forward pass, with the units and their activations.

    Arguments and errors are :func:`deconv`'s. The result has N*k columns, image by image.
    """
    request = Request(OneChoice(channel, position, k), seed, overlap, rule, norm)
    x, names = checked(model, x, layers)
    carried = carry(model, x, dict.fromkeys(names, request), max_memory, progress)
    columns = [
        f"image {image}" if k == 1 else f"image {image}, unit {unit + 1}"
        for image in range(len(x))
        for unit in range(k)
    ]
    return Projections(
        layers=tuple(names),
        columns=tuple(columns),
        units={name: carried[name].places.flatten(0, 1).cpu() for name in names},
        activations={name: to_result(carried[name].activations.flatten()) for name in names},
        projections={name: to_result(_pictures(carried[name].projected, x)) for name in names},
        images=to_result(x).repeat_interleave(k, 0),
        sizes={name: carried[name].size for name in names},
    )


def _pictures(projected: list[Projected], x: Tensor) -> Tensor:
    """[V,C,H,W]: every patch in its place on nothing."""
    pictures = x.new_zeros(len(projected), *x.shape[1:])
    for picture, unit in zip(pictures, projected, strict=True):
        y0, x0, y1, x1 = unit.box
        picture[:, y0:y1, x0:x1] = unit.patch
    return pictures
