"""Projections as the patches that units depend on: :func:`zfcuda.project`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda._units import Units, parse
from zfcuda.cones.descent import Projected
from zfcuda.deconvnet.engines import carry, carry_listed, checked
from zfcuda.deconvnet.request import Norm, Overlap, Request, Rule, Seed
from zfcuda.inference.checks import to_result
from zfcuda.inference.passes import Layers, by_name
from zfcuda.results.projections import Patches


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
    chosen = _by_layer(by_name(model, units), names)
    requests = {name: Request(parse(chosen[name]), seed, overlap, rule, norm) for name in names}
    carried = carry(model, x, requests, max_memory, progress)
    projected = [p for name in names for p in carried[name].projected]
    return Patches(
        layers=tuple(names),
        layer=_numbered([carried[name].places.shape[:2].numel() for name in names]),
        image=torch.cat([_numbered([carried[name].places.shape[1]] * len(x)) for name in names]),
        units=torch.cat([carried[name].places.flatten(0, 1) for name in names]).cpu(),
        activations=to_result(torch.cat([carried[name].activations.flatten() for name in names])),
        boxes=torch.tensor([p.box for p in projected]),
        values=_end_to_end([p.patch for p in projected]),
        images=to_result(x),
    )


@torch.inference_mode(False)
def project_listed(
    model: nn.Module, x: Tensor, units: Mapping[str, Tensor], max_memory: int | None = None
) -> dict[str, tuple[Tensor, list[Projected]]]:
    """:func:`project` for experiments whose images have units of their own, not equally many.

    One forward pass; a layer's units go down together, whichever image they are of.

    Args:
        model, x, max_memory: as :func:`project`.
        units: by layer int64 [P,4], (image, channel, row, column), all on the maps.

    Returns:
        By layer the units' values [P] in this pass, and their P projections.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`project`.
    """
    x, names = checked(model, x, [*units])
    listed = {name: units[name].cpu().numpy() for name in names}
    carried = carry_listed(model, x, listed, max_memory)
    return {name: (own.activations, own.projected) for name, own in carried.items()}


def _by_layer(units: Any, names: list[str]) -> dict[str, Units]:
    if not isinstance(units, Mapping):
        return dict.fromkeys(names, units)
    if {*units} != {*names}:
        raise ValueError(f"units name the layers {list(units)}, layer names {names}")
    return {**units}


def _numbered(counts: Sequence[int]) -> Tensor:
    """0 so many times, then 1 so many times, ..."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _end_to_end(patches: list[Tensor]) -> Tensor:
    """The elements of all patches as results hold them, one patch after the other."""
    dtype = to_result(patches[0].new_empty(0)).dtype
    values = torch.empty(sum(patch.numel() for patch in patches), dtype=dtype)
    start = 0
    for patch in patches:
        values[start : start + patch.numel()].view(patch.shape).copy_(patch)
        start += patch.numel()
    return values
