"""How features come to be during training (Zeiler & Fergus 2014, figure 4)."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from zfcuda.data.images import ImageData, source_of
from zfcuda.experiments.maxima.finding import top_activations
from zfcuda.experiments.maxima.top import Maps
from zfcuda.inference.layers import Layers, by_name, find_layers
from zfcuda.models.weights import load_checked, read_state
from zfcuda.results.maxima import EvolutionResult, TopActivations

Checkpoint = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]


def network_at(name: str, checkpoint: Checkpoint, model: nn.Module | None) -> nn.Module:
    """The ``model`` at a checkpoint: itself if that is one, or a copy with its weights.

    Raises:
        TypeError: weights without a model.
        FileNotFoundError, ValueError: no such file, one that cannot be read, or weights that do not
            fit (names what differs).
    """
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


@torch.inference_mode(False)  # nothing made here is an inference tensor
def evolution(
    checkpoints: Mapping[str, Checkpoint] | Sequence[tuple[str, Checkpoint]],
    images: ImageData,
    layers: Layers,
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
        layers: names of ``model.named_modules()``, or the modules.
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
        network_at(*pair, model)
    networks = [one for one in (model, *(own for _, own in pairs)) if isinstance(one, nn.Module)]
    own = _with_layers(networks, layers)
    names, maps = list(find_layers(own, layers)), by_name(own, maps)
    source = source_of(images, batch, workers)
    settings: dict[str, Any] = {"max_memory": max_memory, "progress": progress}

    def strongest(pair: tuple[str, Checkpoint], chosen: Maps) -> TopActivations:
        return top_activations(network_at(*pair, model), source, names, 1, chosen, **settings)

    last = strongest(pairs[-1], maps)  # it decides which maps are followed
    channels = {layer: own.tolist() for layer, own in last.channels.items()}
    tops = [*(strongest(pair, channels) for pair in pairs[:-1]), last]

    def stacked(name: str, of_all: bool = False) -> dict[str, Tensor]:
        """Per layer [E,M,...] of what holds the chosen maps, or all of them."""
        return {
            layer: torch.stack(
                [getattr(top, name)[layer][own if of_all else slice(None), 0] for top in tops]
            )
            for layer, own in last.channels.items()
        }

    return EvolutionResult(
        checkpoints=tuple(str(name) for name, _ in pairs),
        layers=last.layers,
        channels=last.channels,
        values=stacked("values", of_all=True),
        images=stacked("images", of_all=True),
        positions=stacked("positions", of_all=True),
        boxes=stacked("boxes"),
        projections=stacked("projections"),
        patches=stacked("patches"),
        difference={layer: max(top.difference[layer] for top in tops) for layer in last.layers},
        count=last.count,
        image_size=last.image_size,
        seconds=perf_counter() - began,
        precision=last.precision,
    )


def _with_layers(networks: Sequence[nn.Module], layers: Layers) -> nn.Module:
    """The network whose layers are meant, where they are named by modules: a checkpoint's, or the
    model's that takes the weights."""
    for network in networks[:-1]:
        with suppress(ValueError):
            find_layers(network, layers)
            return network
    return networks[-1]
