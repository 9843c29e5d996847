"""How features come to be during training (Zeiler & Fergus 2014, figure 4)."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda._sources import Images, source_of
from zfcuda.maxima import Maps, TopActivations, top_activations
from zfcuda.models.weights import load_checked, read_state
from zfcuda.results import Result
from zfcuda.results.checks import expect_shape

__all__ = ["Checkpoint", "EvolutionResult", "evolution"]

Checkpoint = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class EvolutionResult(Result):
    """For some maps, the strongest activation over a data set at each of E checkpoints, projected
    (Zeiler & Fergus 2014, figure 4).

    M is the number of a layer's maps that were followed, Z of the image's channels.

    Attributes:
        checkpoints: E names, in the order of training.
        layers: the layers' names.
        channels: per layer int64 [M], the maps, ascending.
        values: per layer [E,M], the strongest activations; -inf where every image gave NaN.
        images: per layer int64 [E,M], the image of each; -1 where there is none.
        positions: per layer int64 [E,M,2], (row, column) on the map.
        boxes: per layer int64 [E,M,4], windows of the images, as in
            :class:`zfcuda.TopActivations`.
        projections: per layer [E,M,Z,h,w], what the unit saw, in network input space.
        patches: per layer [E,M,Z,h,w], the same windows of the images.
        difference: per layer, recorded against reproduced activations, the largest of all
            checkpoints; see :class:`zfcuda.TopActivations`.
        count: number of images.
        image_size: (H, W).
        seconds: wall time.
    """

    checkpoints: tuple[str, ...]
    layers: tuple[str, ...]
    channels: dict[str, Tensor]
    values: dict[str, Tensor]
    images: dict[str, Tensor]
    positions: dict[str, Tensor]
    boxes: dict[str, Tensor]
    projections: dict[str, Tensor]
    patches: dict[str, Tensor]
    difference: dict[str, float]
    count: int
    image_size: tuple[int, int]
    seconds: float
    _figure = "feature_evolution"

    def __post_init__(self) -> None:
        for layer in self.layers:
            expect_shape(f"channels[{layer!r}]", self.channels[layer], None)
            shape = len(self.checkpoints), len(self.channels[layer])
            expect_shape(f"values[{layer!r}]", self.values[layer], *shape)
            expect_shape(f"images[{layer!r}]", self.images[layer], *shape)
            expect_shape(f"positions[{layer!r}]", self.positions[layer], *shape, 2)
            expect_shape(f"boxes[{layer!r}]", self.boxes[layer], *shape, 4)
            expect_shape(
                f"projections[{layer!r}]", self.projections[layer], *shape, None, None, None
            )
            expect_shape(f"patches[{layer!r}]", self.patches[layer], *self.projections[layer].shape)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def evolution(
    checkpoints: Mapping[str, Checkpoint] | Sequence[tuple[str, Checkpoint]],
    images: Images,
    layers: str | Sequence[str],
    model: nn.Module | None = None,
    maps: Maps = 6,
    batch: int = 64,
    workers: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
) -> EvolutionResult:
    """What excites some maps most at each checkpoint of a training, and what they saw there.

    For every checkpoint :func:`zfcuda.top_activations` with k=1: all images go through the network
    once, and the strongest activation of each map is projected to the image. A sudden change of a
    projection often means that another image became the strongest.

    Args:
        checkpoints: in the order of training, names (epochs) and what they stand for: a state dict,
            a file of one (.safetensors, or .pt/.pth with tensors only), or a whole model.
        images: as for :func:`zfcuda.top_activations`; gone through once for every checkpoint.
        layers: names of ``model.named_modules()``.
        model: what the state dicts belong to; a copy of it takes them, it is left as it was. Not
            needed where all checkpoints are models.
        maps: which maps are followed: so many of each layer, evenly spread over those that respond
            at the last checkpoint; "all"; these channels; or one of the three by layer.
        batch, workers, max_memory, progress: as for :func:`zfcuda.top_activations`.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, a file that cannot be
            read, a state dict that does not fit the model (names what differs).
        RuntimeError: the model did not call a layer.
    """
    began = perf_counter()
    pairs = list(checkpoints.items() if isinstance(checkpoints, Mapping) else checkpoints)
    if not pairs:
        raise ValueError("checkpoints must hold at least one")
    for pair in pairs:  # what does not fit is told before the first pass, not after hours
        _network(*pair, model)
    source = source_of(images, batch, workers)
    settings: dict[str, Any] = {"max_memory": max_memory, "progress": progress}

    def strongest(pair: tuple[str, Checkpoint], chosen: Maps) -> TopActivations:
        return top_activations(_network(*pair, model), source, layers, 1, chosen, **settings)

    last = strongest(pairs[-1], maps)  # it decides which maps are followed
    channels = {layer: own.tolist() for layer, own in last.channels.items()}
    tops = [*(strongest(pair, channels) for pair in pairs[:-1]), last]

    def together(name: str) -> dict[str, Tensor]:
        """Per layer [E,M,...] of what holds all maps."""
        return {
            layer: torch.stack([getattr(top, name)[layer][own, 0] for top in tops])
            for layer, own in last.channels.items()
        }

    def seen(name: str) -> dict[str, Tensor]:
        """Per layer [E,M,...] of what holds the chosen maps only."""
        return {
            layer: torch.stack([getattr(top, name)[layer][:, 0] for top in tops])
            for layer in last.layers
        }

    return EvolutionResult(
        checkpoints=tuple(str(name) for name, _ in pairs),
        layers=last.layers,
        channels=last.channels,
        values=together("values"),
        images=together("images"),
        positions=together("positions"),
        boxes=seen("boxes"),
        projections=seen("projections"),
        patches=seen("patches"),
        difference={layer: max(top.difference[layer] for top in tops) for layer in last.layers},
        count=last.count,
        image_size=last.image_size,
        seconds=perf_counter() - began,
    )


def _network(name: str, checkpoint: Checkpoint, model: nn.Module | None) -> nn.Module:
    """The model at a checkpoint."""
    if isinstance(checkpoint, nn.Module):
        return checkpoint
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"checkpoint {name!r} holds weights only: model must be the torch.nn.Module that they "
            f"belong to, got {type(model).__name__}"
        )
    if isinstance(checkpoint, Mapping):
        state, source = checkpoint, f"checkpoint {name!r}"
    else:
        state, source = read_state(Path(checkpoint)), f"checkpoint '{os.fspath(checkpoint)}'"
    network = copy.deepcopy(model)
    load_checked(network, state, source)
    return network
