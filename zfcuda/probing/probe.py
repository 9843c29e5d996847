"""The probe: features, classifiers, accuracies."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zfcuda.data.examples import Split
from zfcuda.inference.passes import Layers, find_layers, progress_bar
from zfcuda.probing.classifiers import Fit, fitted, require_sklearn
from zfcuda.probing.features import PARTS, Features
from zfcuda.probing.stages import layers_by_depth
from zfcuda.results.probe import PIXELS, ProbeResult

__all__ = ["linear_probe"]

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def linear_probe(
    model: nn.Module,
    data: Split,
    layers: Layers | None = None,
    size: int = 1024,
    regularisation: Sequence[float] = REGULARISATION,
    pixels: bool = True,
    steps: int = 300,
    max_features: int = 2**30,
    max_memory: int | None = None,
    progress: bool = False,
) -> ProbeResult:
    """How well a linear classifier does on each layer's features: what the layer has made explicit.

    The network is frozen and runs in eval mode. On the features of the training part a softmax
    classifier with an L2 penalty (scikit-learn's ``LogisticRegression``) is fitted for every
    strength of regularisation; the validation part chooses one, of equal ones the stronger; the
    test part is read once, for its accuracy. Features are standardised with the training part's
    mean and deviation.

    A map of more than ``size`` elements is averaged over a grid of at most as many squares
    (adaptive average pooling), so that all layers are compared at about the same size; vectors, and
    maps of more than ``size`` channels, keep an element for each of them.

    Args:
        model: returns logits [N,K]; left as it was.
        data: the pictures; :func:`zfcuda.data.split` reads a folder,
            :class:`zfcuda.data.FromDataset` takes any ``torch.utils.data.Dataset``.
        layers: names of ``model.named_modules()``, or the modules, by depth; None takes
            :func:`layers_by_depth`.
        size: numbers for each picture that a classifier is given.
        regularisation: scikit-learn's C, the inverse strength.
        pixels: probe the input as well, as what there is without any layer.
        steps: at most so many of the optimiser (L-BFGS).
        max_features: bytes of features (float32) held at once; the network runs again for the
            layers that do not fit beside the others.
        max_memory: bytes that the activations of one batch may take.
        progress: show progress bars.

    Raises:
        ModuleNotFoundError: scikit-learn (the "probe" extra) is not installed.
        TypeError, ValueError: an argument of the wrong kind or out of range, a training part of a
            single class, an empty part, or features of a layer that are larger than
            ``max_features``.
    """
    start = time.perf_counter()
    require_sklearn()
    strengths = _strengths(regularisation)
    if size < 1 or steps < 1:
        raise ValueError(f"size and steps must be at least 1, got {size} and {steps}")
    for part in PARTS:
        if len(getattr(data, part)) == 0:
            raise ValueError(f"the {part} part is empty: expected at least one picture")
    features = Features(model, data, size, max_memory, progress)
    names = layers_by_depth(model, features.example) if layers is None else layers
    names = [PIXELS] * pixels + [*find_layers(model, names)]
    if not names:
        raise ValueError("layers must name at least one layer")
    features.measure(names)
    labels = [getattr(data, part).labels.numpy() for part in PARTS]
    if len(np.unique(labels[0])) < 2:
        raise ValueError("the training part has a single class: there is nothing to tell apart")

    fits: dict[str, Fit] = {}
    for group in features.groups(names, max_features):
        arrays = features.read(group)
        with progress_bar(len(group) * len(strengths), progress, "classifiers") as advance:
            for name in group:
                fits[name] = fitted(arrays.pop(name), labels, strengths, steps, advance)
    _warn_unfinished(fits, steps)
    return ProbeResult(
        layers=tuple(names),
        shapes=tuple(features.shapes[name] for name in names),
        pooled=tuple(features.pooled[name] for name in names),
        regularisation=torch.tensor(strengths, dtype=torch.float64),
        chosen=torch.tensor([fits[name].chosen for name in names]),
        validation_accuracy=_column([fits[name].validation for name in names]),
        training_accuracy=_column([fits[name].training for name in names]),
        accuracy=_column([fits[name].test for name in names]),
        converged=torch.tensor([fits[name].converged for name in names]),
        pictures=tuple(len(part) for part in labels),
        chance=float(np.bincount(labels[2]).max() / len(labels[2])),
        network_accuracy=features.network_accuracy(labels[2], len(data.training.class_names)),
        class_names=tuple(data.training.class_names),
        seconds=time.perf_counter() - start,
    )


def _strengths(regularisation: Sequence[float]) -> list[float]:
    """Ascending: the stronger regularisation first."""
    strengths = sorted(float(value) for value in regularisation)
    if not strengths or not all(0 < value < math.inf for value in strengths):
        raise ValueError(f"regularisation must be positive numbers, got {regularisation!r}")
    return strengths


def _warn_unfinished(fits: Mapping[str, Fit], steps: int) -> None:
    unfinished = [name for name, fit in fits.items() if not fit.converged[fit.chosen]]
    if unfinished:
        warnings.warn(
            f"the classifiers of {unfinished} had not converged after {steps} steps; their "
            "accuracy may be a little low: raise steps",
            stacklevel=4,  # this function, linear_probe, its decorator, the caller
        )


def _column(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
