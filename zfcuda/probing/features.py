"""The features of a data set's pictures, a few layers at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zfcuda.data.examples import Examples, Split
from zfcuda.inference.checks import check_input
from zfcuda.inference.guards import evaluating
from zfcuda.inference.passes import base_pass, memory_limit, progress_bar
from zfcuda.results.probe import PIXELS

__all__ = ["PARTS", "Array", "Features"]

PARTS = ("training", "validation", "test")
_READ = 250  # pictures at a time

Array = npt.NDArray[Any]


class Features:
    """The layers' features of all pictures, a few layers at a time."""

    def __init__(
        self, model: nn.Module, data: Split, size: int, max_memory: int | None, progress: bool
    ) -> None:
        self._model, self._data, self._size = model, data, size
        self._max_memory, self._progress = max_memory, progress
        self._count = sum(len(getattr(data, part)) for part in PARTS)
        self._answers: Array | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.pooled: dict[str, tuple[int, ...]] = {}
        self.example = self._placed(data.training.batch(torch.tensor([0]))[0])
        self.example = check_input(model, self.example)

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
        title = f"features of {len(names)} layers"
        with evaluating(self._model), progress_bar(self._count, self._progress, title) as advance:
            for part in PARTS:
                examples = getattr(self._data, part)
                for name, arrays in found.items():
                    width = math.prod(self.pooled[name])
                    arrays.append(np.empty((len(examples), width), np.float32))
                answers = self._fill([found[name][-1] for name in names], names, examples, advance)
        self._answers = answers  # of the last part
        return found

    def _fill(
        self,
        arrays: Sequence[Array],
        names: Sequence[str],
        examples: Examples,
        advance: Callable[[int], Any],
    ) -> Array:
        """Fill ``arrays`` [n,f], one for each layer, and return the logits [n,K]."""
        answers, done = [], 0
        for x, _ in examples.batches(_READ):
            logits, maps = self._pass(self._placed(x), names, self.pooled)
            for name, array in zip(names, arrays, strict=True):
                array[done : done + len(x)] = maps[name].flatten(1).float().cpu().numpy()
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
            maps[PIXELS] = receive(PIXELS, x)
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
