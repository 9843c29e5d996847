"""Linear classifiers on one layer's features, by scikit-learn."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zfcuda.probing.features import Array

__all__ = ["Fit", "fitted", "require_sklearn"]


def require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'linear probes need scikit-learn; install it with: pip install "zfcuda[probe]"'
        ) from None


@dataclass(frozen=True)
class Fit:
    """The classifiers of one layer.

    Attributes:
        chosen: the index of the one with the highest validation accuracy.
        converged: of each, whether it ended before its limit of steps.
        validation: the accuracies of all.
        training, test: the accuracies of the chosen one.
    """

    chosen: int
    converged: list[bool]
    validation: list[float]
    training: float
    test: float


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
    return Fit(
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
