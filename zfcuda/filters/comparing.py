"""First layers of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from zfcuda.data.images import Images, source_of
from zfcuda.filters.first_layer import convolutions, first_layer_filters
from zfcuda.maxima.choosing import Maps
from zfcuda.maxima.finding import top_activations
from zfcuda.results.filters import FilterComparison


@torch.inference_mode(False)
def compare_filters(
    models: Mapping[str, nn.Module],
    images: Images | Mapping[str, Images],
    layers: Mapping[str, Sequence[str]] | None = None,
    maps: Maps = 48,
    threshold: float = 0.05,
    batch: int = 64,
    max_memory: int | None = None,
    progress: bool = False,
) -> FilterComparison:
    """First layers of several models side by side: their filters (:func:`first_layer_filters`), and
    what some maps of the first two layers see (:func:`zfcuda.top_activations` with k=1).

    Args:
        models: by name.
        images: for all models, or by name for each, as :func:`zfcuda.top_activations` takes them.
        layers: by name, whose maps are projected; by default the first two convolutions in the
            order of definition.
        maps: which maps are projected, as for :func:`zfcuda.top_activations`.
        threshold, batch, max_memory, progress: as for the functions above.

    Raises:
        TypeError, ValueError, RuntimeError: as the functions above.
    """
    if not models:
        raise ValueError("models must hold at least one")
    filters, tops = [], []
    for name, model in models.items():
        own = source_of(images[name] if isinstance(images, Mapping) else images, batch)
        chosen = layers[name] if layers else convolutions(model)[:2]
        filters.append(first_layer_filters(model, own, threshold=threshold))
        tops.append(
            top_activations(model, own, chosen, 1, maps, max_memory=max_memory, progress=progress)
        )
    return FilterComparison(tuple(models), tuple(filters), tuple(tops))
