"""Projections as whole pictures: :func:`zfcuda.deconv`, :func:`zfcuda.projections`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.cones.descent import on_pictures
from zfcuda.experiments.deconvnet.engines import carry, checked
from zfcuda.experiments.deconvnet.request import (
    Carried,
    Channel,
    Listed,
    Norm,
    OneChoice,
    Overlap,
    Position,
    Rule,
    Seed,
    SeededManner,
    Units,
    parse,
)
from zfcuda.inference.checks import result_dtype, to_results
from zfcuda.inference.layers import Layer, Layers, by_name
from zfcuda.ops.windows import on_host
from zfcuda.results.projections import Patches, Projections
from zfcuda.storage.identity import precision


@torch.inference_mode(False)
def project(
    model: nn.Module,
    x: Tensor,
    layer: Layers,
    units: Units | Mapping[str, Units] = "strongest",
    seed: Seed = "activation",
    overlap: Overlap = "sum",
    rule: Rule = "deconv",
    norm: Norm = "identity",
    max_memory: int | None = None,
    progress: bool = False,
) -> Patches:
    """What many units saw: :func:`deconv` of all of them after one forward pass, each as the patch
    of the image that it depends on.

    Only what a unit depends on is computed. A model that cannot be followed as a graph, or has
    calls on the way down that let everything depend on everything, takes :func:`deconv`'s other
    path, a whole backward pass for every unit; the patches are whole pictures then.

    Args:
        model, x, seed, overlap, rule, norm, progress: as :func:`deconv`.
        layer: a name of ``model.named_modules()``, or the module, or several of these.
        units: which units of every image and layer (or, by layer, a mapping):

            - "strongest": of every map its strongest;
            - "top-9" or ("top", 9): of the 9 maps that hold the largest, their strongest;
            - (channel, row, column), or a list of these, or such a list for each image;
            - in a layer of vectors, such as the classes: a channel (channel,) or a list of them;
            - ("map", channel) or ("map", channels): whole maps, every element its own seed.
        max_memory: bytes that the activations of one batch of images, and the signals of one batch
            of units, may take; by default as :func:`deconv`.

    Returns:
        N*k units a layer: layer by layer, image by image, in the order asked for.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`deconv`.
    """
    x, names = checked(model, x, layer)
    chosen = by_name(model, units)
    if not isinstance(chosen, Mapping):
        chosen = dict.fromkeys(names, chosen)
    if {*chosen} != {*names}:
        raise ValueError(f"units name the layers {list(chosen)}, layer names {names}")
    choices = {name: parse(chosen[name]) for name in names}
    manner = SeededManner(overlap, rule, norm, seed)
    carried = carry(model, x, choices, manner, max_memory, progress)
    joined = Carried.joined([carried[name] for name in names])
    seen = to_results({"images": x, "activations": joined.activations})
    boxes, values = _end_to_end(joined, x)
    return Patches(
        layers=tuple(names),
        layer=torch.arange(len(names)).repeat_interleave(
            torch.tensor([len(carried[name].units) for name in names])
        ),
        image=joined.units[:, 0],
        units=joined.units[:, 1:],
        activations=seen["activations"],
        boxes=boxes,
        values=values,
        images=seen["images"].clone(),  # x may be written later
        precision=precision(x.device, x.dtype),
    )


@torch.inference_mode(False)
def project_listed(
    model: nn.Module, x: Tensor, units: Mapping[str, Tensor], max_memory: int | None = None
) -> dict[str, Carried]:
    """:func:`project` for experiments whose images have units of their own, not equally many: by
    layer what was carried down in one forward pass. A layer's units go down together, whichever
    image they are of.

    Args:
        units: by layer int64 [P,4], (image, channel, row, column), all on the maps, images
            ascending.
    """
    x, names = checked(model, x, [*units])
    choices = {name: Listed(units[name].cpu()) for name in names}
    return carry(model, x, choices, SeededManner(), max_memory)


def _end_to_end(carried: Carried, x: Tensor) -> tuple[Tensor, Tensor]:
    """The units' boxes [P,4] on the images ``x`` [N,C,H,W], and the elements of their patches as
    results hold them, one patch after the other."""
    boxes = np.zeros((len(carried.units), 4), np.int64)
    patches: dict[int, Tensor] = {}
    windows = on_host([part.data for part in carried.projected])
    for part, data in zip(carried.projected, windows, strict=True):
        filled = (part.boxes[:, 2:] > part.boxes[:, :2]).all(1)
        inside = part.boxes - np.tile(part.origins, 2)
        for row in np.flatnonzero(filled):
            y0, x0, y1, x1 = inside[row]
            patches[part.units[row]] = data[row, y0:y1, x0:x1].permute(2, 0, 1)
        boxes[part.units[filled]] = part.boxes[filled]
    total = sum(patch.numel() for patch in patches.values())
    values = torch.empty(total, dtype=result_dtype(x.dtype))
    start = 0
    for unit in sorted(patches):
        patch = patches[unit]
        values[start : start + patch.numel()].view(patch.shape).copy_(patch)
        start += patch.numel()
    return torch.from_numpy(boxes), values


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
        max_memory: bytes that the activations of one batch may take; None takes the default of
            :func:`zfcuda.inference.passes.memory_limit`.
        progress: show a progress bar.

    Returns:
        [N,C,H,W] in x's dtype and device; [N,k,C,H,W], strongest first, when k > 1. Never requires
        grad.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range.
        RuntimeError: the model did not call the layer, cuts its graph below it, or recomputes in
            backward.
    """
    choice, manner = OneChoice(channel, position, k), SeededManner(overlap, rule, norm, seed)
    x, (name,) = checked(model, x, [layer])
    carried = carry(model, x, {name: choice}, manner, max_memory, progress)
    pictures = on_pictures(carried[name].projected, len(x) * k, x).unflatten(0, (len(x), k))
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
    choice, manner = OneChoice(channel, position, k), SeededManner(overlap, rule, norm, seed)
    x, names = checked(model, x, layers)
    carried = carry(model, x, dict.fromkeys(names, choice), manner, max_memory, progress)
    columns = [
        f"image {image}" if k == 1 else f"image {image}, unit {unit + 1}"
        for image in range(len(x))
        for unit in range(k)
    ]
    pictures = {
        name: on_pictures(own.projected, len(own.units), x) for name, own in carried.items()
    }
    values = {name: own.activations for name, own in carried.items()}
    told = iter(to_results(dict(enumerate([x, *values.values(), *pictures.values()]))).values())
    images = next(told)
    return Projections(
        layers=tuple(names),
        columns=tuple(columns),
        units={name: carried[name].units[:, 1:] for name in names},
        activations={name: next(told) for name in values},
        projections={name: next(told) for name in pictures},
        images=images.repeat_interleave(k, 0),
        sizes={name: carried[name].size for name in names},
        precision=precision(x.device, x.dtype),
    )
