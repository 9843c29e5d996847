"""The strongest activations of every map over a data set, held in memory (Zeiler & Fergus 2014,
figure 2)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from time import perf_counter

import torch
from torch import nn

from zfcuda.data.images import ImageData, source_of
from zfcuda.experiments.maxima.projecting import difference, field_windows, project_units
from zfcuda.experiments.maxima.scanning import scan
from zfcuda.experiments.maxima.top import Maps, chosen, on_cpu, units_of
from zfcuda.inference.checks import device_of, is_int, to_result
from zfcuda.inference.layers import Layers, by_name, find_layers
from zfcuda.inference.passes import memory_limit
from zfcuda.results.maxima import TopActivations
from zfcuda.storage.identity import Precision, precision


@torch.inference_mode(False)  # nothing made here is an inference tensor
def top_activations(
    model: nn.Module,
    images: ImageData,
    layers: Layers,
    k: int = 9,
    maps: Maps = 10,
    tolerance: float | None = None,
    batch: int = 64,
    workers: int = 0,
    max_memory: int | None = None,
    progress: bool = False,
) -> TopActivations:
    """The k images that excite each map most, where they do so, and what the map saw there.

    All images go through the model once, for all layers together; of every map the k largest
    activations are kept, at most one of each image. What is kept does not grow with the number of
    images. The images of the chosen ``maps`` are then read and forwarded once more, and each of
    these activations is projected to the image on its own (:func:`zfcuda.project`).

    Larger activations come first, of equal ones that of the earlier image, and in an image the
    first in raster order. A map that holds a NaN is left out for that image, since its maximum
    means nothing; the result counts these images.

    Args:
        model: any CNN; runs in eval mode and is left as it was.
        images: a tensor [N,C,H,W] as the model takes it; a ``torch.utils.data`` Dataset of images
            [C,H,W]; a DataLoader that does not shuffle; or anything else that gives batches and can
            be iterated over twice, such as a list. Of (image, label) the image counts. Batches are
            moved to the model's device.
        layers: names of ``model.named_modules()``, or the modules, giving maps [N,C,H,W], or
            vectors [N,F] taken as F maps of one element.
        k: activations of each map.
        maps: which maps are projected: so many of each layer, evenly spread over those that respond
            at all (whose strongest activation is above 0); "all"; these channels; or one of the
            three by layer. The result grows with them.
        tolerance: warn where a recorded and a reproduced activation differ by more than this share
            of the layer's largest: images then differ each time they are read. By default 1e-3, 0.1
            where the model multiplies 16-bit or TF32 numbers.
        batch: images of a tensor or Dataset that are read at a time.
        workers: processes that read a Dataset.
        max_memory: bytes that the activations of one batch may take; None takes the default of
            :func:`zfcuda.inference.passes.memory_limit`.
        progress: show progress bars.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or out of range, images of several
            sizes, no images.
        RuntimeError: the model did not call a layer.
    """
    began = perf_counter()
    names, maps = list(find_layers(model, layers)), by_name(model, maps)
    check_k(names, k)
    source = source_of(images, batch, workers)
    limit = memory_limit(max_memory, device_of(model))
    k = int(k)
    tops, count, example = scan(model, source, names, k, maps, limit, progress)
    tops = on_cpu(tops)
    channels = {name: chosen(maps, name, top) for name, top in tops.items()}
    units = {name: units_of(top, channels[name]) for name, top in tops.items()}
    windows = field_windows(model, example, units, tops)
    views = project_units(model, source, units, windows, example, max_memory, progress)
    differences = {name: difference(tops[name], channels[name], views[name]) for name in names}
    rounded = precision(example.device, example.dtype)
    warn_beyond(differences, tolerance, rounded)
    return TopActivations(
        layers=tuple(names),
        values={name: to_result(top.values) for name, top in tops.items()},
        images={name: top.numbers for name, top in tops.items()},
        positions={name: top.positions for name, top in tops.items()},
        channels=channels,
        boxes={name: view.windows.unflatten(0, (-1, k)) for name, view in views.items()},
        projections={name: view.projections.unflatten(0, (-1, k)) for name, view in views.items()},
        patches={name: view.patches.unflatten(0, (-1, k)) for name, view in views.items()},
        difference=differences,
        undefined={name: int(top.undefined) for name, top in tops.items()},
        count=count,
        image_size=tuple(example.shape[2:]),
        seconds=perf_counter() - began,
        precision=rounded,
    )


def check_k(names: Sequence[str], k: int) -> None:
    """Raise unless there are layers, and activations of each map to be found."""
    if not names:
        raise ValueError("layers must name at least one layer")
    if not is_int(k) or k < 1:
        raise ValueError(f"k must be a positive int, got {k!r}")


def warn_beyond(
    differences: Mapping[str, float], tolerance: float | None, rounded: Precision
) -> None:
    """Warn where activations were other ones when their images were read again."""
    if tolerance is None:
        tolerance = 0.1 if rounded.reduced else 1e-3
    layer, difference = max(differences.items(), key=lambda item: item[1])
    if not difference <= tolerance:
        warnings.warn(
            f"layer {layer!r}: activations differ by {difference:.2g} of the largest when their "
            f"images are read again (expected at most {tolerance:g}); do the images come in "
            "another order, or changed at random, each time?",
            stacklevel=4,  # this function, the one that calls it, its decorator, the caller
        )
