"""What each layer's features are worth to a linear classifier (Zeiler & Fergus 2014, section 5.2,
table 7)."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.data.examples import Examples, Split
from zfcuda.inference.checks import as_weights, check_input, concatenated, evaluating
from zfcuda.inference.layers import Layers, find_layers, gives_features, outputs_by_call
from zfcuda.inference.passes import Passes, memory_limit, progress_bar
from zfcuda.results.training import PIXELS, ProbeResult
from zfcuda.storage.identity import precision
from zfcuda.storage.terminal import extra


def layers_by_depth(model: nn.Module, x: Tensor, most: int = 8) -> list[str]:
    """Layers to probe, by depth: of every block with weights the features that the next one takes.

    Blocks are what the model and its ``nn.Sequential`` containers consist of; a block that holds a
    convolution or linear layer begins a stage, and what follows without (ReLU, pooling,
    normalisation) belongs to it. The last block, the classifier, is none; of more than ``most``
    stages so many are taken, evenly, the last one included.

    Raises:
        ValueError: no stage is found; name layers then.
    """
    blocks = dict(_blocks(model, ""))
    found = outputs_by_call(model, x, [*blocks], lambda _, output: output)
    stages: list[str] = []
    for name, output in found.items():
        if any(isinstance(module, nn.Conv2d | nn.Linear) for module in blocks[name].modules()):
            stages.append(name)
        elif stages and gives_features(blocks[name], output):
            stages[-1] = name
    stages = stages[:-1]
    if not stages:
        raise ValueError(
            f"no layers to probe can be told apart among {[*found][:8]}; name them in layers"
        )
    count = min(most, len(stages))
    return [stages[(i + 1) * len(stages) // count - 1] for i in range(count)]


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, nn.Sequential):
            yield from _blocks(child, inner)
        else:
            yield inner, child


_READ = 250  # pictures at a time

Array = npt.NDArray[Any]


class Features:
    """The layers' features of all pictures, a few layers at a time."""

    def __init__(
        self, model: nn.Module, data: Split, size: int, max_memory: int | None, progress: bool
    ) -> None:
        self._model, self._data, self._size = model, data, size
        self._max_memory, self._progress = max_memory, progress
        self._count = sum(map(len, data.parts().values()))
        self._answers: Array | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pooled: dict[str, tuple[int, ...]] = {}
        self.example = as_weights(data.training.batch(torch.tensor([0]))[0], model)
        self.example = check_input(model, self.example)

    def measure(self, names: Sequence[str]) -> None:
        """Find the layers' shapes on one picture."""
        with evaluating(self._model):
            _, found = self._passes(names).images(self.example, lambda _, maps: maps.shape[1:])
        if PIXELS in names:
            found[PIXELS] = [self.example.shape[1:]]
        for name, (shape,) in found.items():
            self.shapes[name], self.pooled[name] = tuple(shape), _pooled(*shape, self._size)

    def groups(self, names: Sequence[str], limit: int) -> Iterator[list[str]]:
        """The layers, as many together as fit in ``limit`` bytes."""
        group: list[str] = []
        left = limit
        for name in names:
            numbers = math.prod(self.pooled[name])
            size = 4 * self._count * numbers
            if size > limit:
                raise ValueError(
                    f"the features of layer {name!r} take {size:,} bytes, {numbers} numbers for "
                    f"each of {self._count} pictures: more than max_features {limit:,}; use fewer "
                    "pictures or a smaller size"
                )
            if size > left:
                yield group
                group, left = [], limit
            group.append(name)
            left -= size
        yield group

    def read(self, names: Sequence[str]) -> dict[str, list[Array]]:
        """Each layer's features, float32 [n,f] for each of the three parts."""
        found: dict[str, list[Array]] = {name: [] for name in names}
        title, passes = f"features of {len(names)} layers", self._passes(names)
        with evaluating(self._model), progress_bar(self._count, self._progress, title) as advance:
            for examples in self._data.parts().values():
                for name, arrays in found.items():
                    width = math.prod(self.pooled[name])
                    arrays.append(np.empty((len(examples), width), np.float32))
                arrays = {name: own[-1] for name, own in found.items()}
                self._answers = self._fill(arrays, passes, examples, advance)
        return found

    def _fill(
        self,
        arrays: Mapping[str, Array],
        passes: Passes,
        examples: Examples,
        advance: Callable[[int], Any],
    ) -> Array:
        """Fill each layer's array [n,f] and return the logits [n,K]."""

        def pool(name: str, maps: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(maps, self.pooled[name][1:])

        answers, done = [], 0
        for x, _ in examples.batches(_READ):
            x = as_weights(x, self._model)
            logits, found = passes.images(x, pool)
            if PIXELS in arrays:
                found[PIXELS] = [pool(PIXELS, x)]
            for name, maps in found.items():
                array = concatenated(maps).flatten(1).float().cpu().numpy()
                arrays[name][done : done + len(x)] = array
            answers.append(logits.float().cpu().numpy())
            done += len(x)
            advance(len(x))
        return np.concatenate(answers)

    def network_accuracy(self, labels: Array, classes: int) -> float:
        """The network's own accuracy on the test part, once that was read; NaN if it has other
        classes."""
        if self._answers is None or self._answers.shape[1] != classes:
            return math.nan
        return float((self._answers.argmax(1) == labels).mean())

    def _passes(self, names: Sequence[str]) -> Passes:
        limit = memory_limit(self._max_memory, self.example.device)
        return Passes(self._model, [name for name in names if name != PIXELS], limit)


def _pooled(channels: int, height: int, width: int, size: int) -> tuple[int, int, int]:
    """(C,h,w) with the largest h = w for which there are at most ``size`` elements."""
    if channels * height * width <= size:
        return channels, height, width
    side = max(1, math.isqrt(size // channels))
    return channels, min(side, height), min(side, width)


Fit = dict[str, Any]  # by field of the result, what it says of a layer


def fitted(
    features: list[Array],
    labels: list[Array],
    strengths: Sequence[float],
    steps: int,
    advance: Callable[[int], Any],
) -> Fit:
    """Classifiers of every strength on one layer's features (standardised in place)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    _standardise(features)
    train, validation, test = features
    if not np.isfinite(train).all():
        raise ValueError("a layer's features are not finite: no classifier can be fitted to them")
    # Each fit starts from the one before, which was regularised more strongly.
    classifier = LogisticRegression(max_iter=steps, warm_start=True)
    best, scores, converged = classifier, [], []
    for strength in strengths:
        classifier.set_params(C=strength)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            classifier.fit(train, labels[0])
        converged.append(not any(issubclass(w.category, ConvergenceWarning) for w in caught))
        score = _accuracy(classifier, validation, labels[1])
        if score > max(scores, default=-1.0):
            best = copy.deepcopy(classifier)
        scores.append(score)
        advance(1)
    return {
        "chosen": scores.index(max(scores)),
        "converged": converged,
        "validation_accuracy": scores,
        "training_accuracy": _accuracy(best, train, labels[0]),
        "accuracy": _accuracy(best, test, labels[2]),
    }


def _accuracy(classifier: Any, features: Array, labels: Array) -> float:
    return float((classifier.predict(features) == labels).mean())


def _standardise(features: list[Array]) -> None:
    """Zero mean and unit deviation over the training part; features that never vary become 0."""
    mean = features[0].mean(0, dtype=np.float64).astype(np.float32)
    for part in features:
        part -= mean
    deviation = np.sqrt(np.square(features[0]).mean(0, dtype=np.float64)).astype(np.float32)
    constant = deviation <= 1e-7 * np.abs(mean)
    scale = np.where(constant, 0, 1 / np.where(constant, 1, deviation)).astype(np.float32)
    for part in features:
        part *= scale


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
    with extra("linear probes need scikit-learn", "probe"):
        import sklearn  # noqa: F401
    strengths = _strengths(regularisation)
    if size < 1 or steps < 1:
        raise ValueError(f"size and steps must be at least 1, got {size} and {steps}")
    parts = data.parts()
    features = Features(model, data, size, max_memory, progress)
    names = layers_by_depth(model, features.example) if layers is None else layers
    names = [PIXELS] * pixels + [*find_layers(model, names)]
    if not names:
        raise ValueError("layers must name at least one layer")
    features.measure(names)
    labels = [part.labels.numpy() for part in parts.values()]
    if len(np.unique(labels[0])) < 2:
        raise ValueError("the training part has a single class: there is nothing to tell apart")

    fits: dict[str, Fit] = {}
    for group in features.groups(names, max_features):
        arrays = features.read(group)
        with progress_bar(len(group) * len(strengths), progress, "classifiers") as advance:
            for name in group:
                fits[name] = fitted(arrays.pop(name), labels, strengths, steps, advance)
    unfinished = [name for name, fit in fits.items() if not fit["converged"][fit["chosen"]]]
    if unfinished:
        warnings.warn(
            f"the classifiers of {unfinished} had not converged after {steps} steps; their "
            "accuracy may be a little low: raise steps",
            stacklevel=3,  # this function, its decorator, the caller
        )
    return ProbeResult(
        layers=tuple(names),
        shapes=tuple(features.shapes[name] for name in names),
        pooled=tuple(features.pooled[name] for name in names),
        regularisation=torch.tensor(strengths, dtype=torch.float64),
        **{
            field: torch.from_numpy(np.array([fits[name][field] for name in names]))
            for field in fits[names[0]]
        },
        pictures=tuple(len(part) for part in labels),
        chance=float(np.bincount(labels[2]).max() / len(labels[2])),
        network_accuracy=features.network_accuracy(labels[2], len(data.training.class_names)),
        class_names=tuple(data.training.class_names),
        seconds=time.perf_counter() - start,
        precision=precision(features.example.device, features.example.dtype),
    )


def _strengths(regularisation: Sequence[float]) -> list[float]:
    """Ascending: the stronger regularisation first."""
    strengths = sorted(float(value) for value in regularisation)
    if not strengths or not all(0 < value < math.inf for value in strengths):
        raise ValueError(f"regularisation must be positive numbers, got {regularisation!r}")
    return strengths
