"""What each layer's features are worth to a linear classifier (Zeiler & Fergus 2014, section 5.2,
table 7)."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda._running import (
    base_pass,
    check_input,
    evaluating,
    feature_maps,
    find_layers,
    layer_outputs,
    memory_limit,
    progress_bar,
)
from zfcuda.datasets import Examples, Split
from zfcuda.results import Result, _expect

__all__ = ["PIXELS", "ProbeResult", "layers_by_depth", "linear_probe"]

PIXELS = "input pixels"  # a row of the result that is no layer: no module's name has a space
REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_READ = 250  # pictures at a time
_PARTS = ("training", "validation", "test")

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ProbeResult(Result):
    """Linear classifiers on frozen features (Zeiler & Fergus 2014, table 7).

    L layers (the first may be :data:`PIXELS`), R strengths of regularisation.

    Attributes:
        layers: the layers' names, by depth.
        shapes: each layer's output for a picture, (C,H,W).
        pooled: (C,h,w), what of it a classifier was given.
        regularisation: float64 [R], scikit-learn's C, ascending: smaller is stronger.
        chosen: int64 [L], which of them was chosen, by the validation part.
        validation_accuracy: float64 [L,R].
        training_accuracy, accuracy: float64 [L], of the chosen classifier on the training and on
            the test part.
        converged: bool [L,R], whether the fit ended before its limit of steps.
        pictures: of the training, validation and test parts.
        chance: the share of the test part's most frequent class.
        network_accuracy: that of the network itself on the test part; NaN where its classes are not
            those of the data.
        class_names: in label order.
        seconds: wall time.
    """

    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    pooled: tuple[tuple[int, ...], ...]
    regularisation: Tensor
    chosen: Tensor
    validation_accuracy: Tensor
    training_accuracy: Tensor
    accuracy: Tensor
    converged: Tensor
    pictures: tuple[int, ...]
    chance: float
    network_accuracy: float
    class_names: tuple[str, ...]
    seconds: float
    _figure = "probe"

    def __post_init__(self) -> None:
        count, strengths = len(self.layers), len(self.regularisation)
        _expect("validation_accuracy", self.validation_accuracy, count, strengths)
        _expect("converged", self.converged, count, strengths)
        for name in ("chosen", "training_accuracy", "accuracy"):
            _expect(name, getattr(self, name), count)

    @property
    def features(self) -> list[int]:
        """How many numbers each classifier was given of a picture."""
        return [math.prod(shape) for shape in self.pooled]

    @property
    def error(self) -> Tensor:
        """float64 [L], the standard error of ``accuracy``, from the number of test pictures."""
        return (self.accuracy * (1 - self.accuracy) / self.pictures[2]).sqrt()

    def table(self, tablefmt: str = "simple") -> str:
        """Table 7 as text; ``tablefmt`` as tabulate has it."""
        from tabulate import tabulate

        rows = [
            [
                layer,
                "×".join(map(str, self.shapes[i])),
                "×".join(map(str, self.pooled[i])),
                f"{float(self.regularisation[self.chosen[i]]):g}",
                f"{self.training_accuracy[i]:.1%}",
                f"{self.validation_accuracy[i, self.chosen[i]]:.1%}",
                f"{self.accuracy[i]:.1%} ± {self.error[i]:.1%}",
            ]
            for i, layer in enumerate(self.layers)
        ]
        heads = ["features", "output", "used", "C", "training", "validation", "test"]
        return tabulate(rows, heads, tablefmt, disable_numparse=True)


@torch.inference_mode(False)  # nothing made here is an inference tensor
def linear_probe(
    model: nn.Module,
    data: Split,
    layers: str | Sequence[str] | None = None,
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
        data: the pictures; :func:`zfcuda.datasets.split` reads a folder,
            :class:`zfcuda.datasets.FromDataset` takes any ``torch.utils.data.Dataset``.
        layers: names of ``model.named_modules()``, by depth; None takes :func:`layers_by_depth`.
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
    _require_sklearn()
    strengths = sorted(float(value) for value in regularisation)
    if not strengths or not strengths[0] > 0:
        raise ValueError(f"regularisation must be positive numbers, got {regularisation!r}")
    if size < 1 or steps < 1:
        raise ValueError(f"size and steps must be at least 1, got {size} and {steps}")
    for part in _PARTS:
        if len(getattr(data, part)) == 0:
            raise ValueError(f"the {part} part is empty: expected at least one picture")
    features = _Features(model, data, size, max_memory, progress)
    names = layers_by_depth(model, features.example) if layers is None else layers
    names = [PIXELS] * pixels + [*find_layers(model, names)]
    features.measure(names)
    labels = [getattr(data, part).labels.numpy() for part in _PARTS]
    if len(np.unique(labels[0])) < 2:
        raise ValueError("the training part has a single class: there is nothing to tell apart")

    fits: dict[str, _Fit] = {}
    for group in features.groups(names, max_features):
        arrays = features.read(group)
        with progress_bar(len(group) * len(strengths), progress, "classifiers") as advance:
            for name in group:
                fits[name] = _fitted(arrays.pop(name), labels, strengths, steps, advance)
    unfinished = [name for name in names if not fits[name].converged[fits[name].chosen]]
    if unfinished:
        warnings.warn(
            f"the classifiers of {unfinished} had not converged after {steps} steps; their "
            "accuracy may be a little low: raise steps",
            stacklevel=2,
        )
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
    with (
        evaluating(model),
        layer_outputs(model, [*blocks], lambda _, output: output) as found,
    ):
        model(x[:1].clone())
    stages: list[str] = []
    for name, output in found.items():
        if any(isinstance(module, nn.Conv2d | nn.Linear) for module in blocks[name].modules()):
            stages.append(name)
        elif stages and not isinstance(blocks[name], _PASSING) and _is_features(output):
            stages[-1] = name
    stages = stages[:-1]
    if not stages:
        raise ValueError(
            f"no layers to probe can be told apart among {[*found][:8]}; name them in layers"
        )
    count = min(most, len(stages))
    return [stages[(i + 1) * len(stages) // count - 1] for i in range(count)]


_PASSING = (nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Identity)


def _blocks(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if isinstance(child, nn.Sequential):
            yield from _blocks(child, inner)
        else:
            yield inner, child


def _is_features(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() in (2, 4)


# --- features -------------------------------------------------------------------------------------


class _Features:
    """The layers' features of all pictures, a few layers at a time."""

    def __init__(
        self, model: nn.Module, data: Split, size: int, max_memory: int | None, progress: bool
    ) -> None:
        self._model, self._data, self._size = model, data, size
        self._max_memory, self._progress = max_memory, progress
        self._count = sum(len(getattr(data, part)) for part in _PARTS)
        self._answers: Tensor | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pooled: dict[str, tuple[int, ...]] = {}
        self.example = self._placed(data.training.batch(torch.tensor([0]))[0])
        check_input(model, self.example)

    def measure(self, names: Sequence[str]) -> None:
        """Find the layers' shapes on one picture."""
        with evaluating(self._model):
            found = self._pass(self.example, names)[1]
        for name, maps in found.items():
            shape = tuple(maps.shape[1:])
            self.shapes[name], self.pooled[name] = shape, _pooled_shape(shape, self._size)

    def groups(self, names: Sequence[str], limit: int) -> Iterator[list[str]]:
        """The layers, as many together as fit in ``limit`` bytes."""
        group: list[str] = []
        for name in names:
            if self._bytes([name]) > limit:
                raise ValueError(
                    f"the features of layer {name!r} take {self._bytes([name]):,} bytes, "
                    f"{math.prod(self.pooled[name])} numbers for each of {self._count} pictures: "
                    f"more than max_features {limit:,}; use fewer pictures or a smaller size"
                )
            if self._bytes([*group, name]) > limit:
                yield group
                group = []
            group.append(name)
        yield group

    def _bytes(self, names: Sequence[str]) -> int:
        return sum(4 * self._count * math.prod(self.pooled[name]) for name in names)

    def read(self, names: Sequence[str]) -> dict[str, list[Array]]:
        """Each layer's features, float32 [n,f] for each of the three parts."""
        found: dict[str, list[Array]] = {name: [] for name in names}
        answers: list[Tensor] = []
        title = f"features of {len(names)} layers"
        with evaluating(self._model), progress_bar(self._count, self._progress, title) as advance:
            for part in _PARTS:
                self._read_part(getattr(self._data, part), found, answers, advance)
                answers = answers if part == "test" else []
        self._answers = torch.cat(answers)
        return found

    def _read_part(
        self,
        examples: Examples,
        found: dict[str, list[Array]],
        answers: list[Tensor],
        advance: Callable[[int], Any],
    ) -> None:
        for name, arrays in found.items():
            width = math.prod(self.pooled[name])
            arrays.append(np.empty((len(examples), width), np.float32))
        done = 0
        for x, _ in examples.batches(_READ):
            logits, maps = self._pass(self._placed(x), [*found], self.pooled)
            for name, arrays in found.items():
                arrays[-1][done : done + len(x)] = maps[name].flatten(1).float().cpu().numpy()
            answers.append(logits.argmax(1).cpu())
            self._classes = logits.shape[1]
            done += len(x)
            advance(len(x))

    def network_accuracy(self, labels: Array, classes: int) -> float:
        """The network's own accuracy on the test part, NaN if it has other classes."""
        if self._answers is None or self._classes != classes:
            return math.nan
        return float((self._answers.numpy() == labels).mean())

    def _pass(
        self,
        x: Tensor,
        names: Sequence[str],
        pooled: dict[str, tuple[int, ...]] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits, and each layer's maps [n,C,H,W], pooled if it is said how."""

        def receive(name: str, maps: Tensor) -> Tensor:
            return maps.clone() if pooled is None else _pooled(maps, pooled[name])

        limit = memory_limit(self._max_memory, x.device)
        layers = [name for name in names if name != PIXELS]
        logits, received, _ = base_pass(self._model, x, layers, receive, limit)
        maps = {name: torch.cat(parts) for name, parts in received.items()}
        if PIXELS in names:
            maps[PIXELS] = receive(PIXELS, feature_maps(x, PIXELS, len(x)))
        return logits, maps

    def _placed(self, x: Tensor) -> Tensor:
        weights = next(iter(self._model.parameters()), x)
        return x.to(weights.device, weights.dtype)


def _pooled_shape(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """(C,h,w) with the largest h = w for which there are at most ``size`` elements."""
    channels, height, width = shape
    if channels * height * width <= size:
        return shape
    side = max(1, math.isqrt(size // channels))
    return channels, min(side, height), min(side, width)


def _pooled(maps: Tensor, shape: tuple[int, ...]) -> Tensor:
    if maps.shape[1:] == shape:
        return maps.clone()
    return F.adaptive_avg_pool2d(maps, shape[1:])


# --- classifiers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    chosen: int
    converged: list[bool]
    validation: list[float]
    training: float
    test: float


def _fitted(
    features: list[Array],
    labels: list[Array],
    strengths: Sequence[float],
    steps: int,
    advance: Callable[[int], Any],
) -> _Fit:
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
    return _Fit(
        chosen=scores.index(max(scores)),
        converged=converged,
        validation=scores,
        training=_accuracy(best, train, labels[0]),
        test=_accuracy(best, test, labels[2]),
    )


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


def _column(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'linear probes need scikit-learn; install it with: pip install "zfcuda[probe]"'
        ) from None
