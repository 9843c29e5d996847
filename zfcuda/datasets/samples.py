"""A hundred-odd pictures of Fashion-MNIST's test part on coloured backgrounds, in the package.

``garments.npz`` is written by ``scripts/pack_zfnet_small.py``; its licence lies beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.datasets.examples import Pictures, Split, generator
from zfcuda.datasets.fashion import CLASS_NAMES
from zfcuda.datasets.part import Part, by_share

__all__ = ["Garments", "are_samples", "garments", "garments_split"]

_NAME = "garments"
_SHARE = 4  # one picture in so many is for validation, and for test


@dataclass(frozen=True, eq=False)
class Garments:
    """Pictures that zfnet_small was not trained on, the same number of each class.

    Attributes:
        pictures: the pictures, labels and class names.
        opacity: uint8 [N,64,64], how much of each pixel is garment (255: all), for background
            experiments.
        numbers: int64 [N], their places in the test part.
    """

    pictures: Pictures
    opacity: Tensor
    numbers: Tensor


def garments(preprocessing: Preprocessing) -> Garments:
    """The pictures that ship with zfcuda, for a network of at most 64 pixels a side."""
    file = resources.files("zfcuda.datasets").joinpath("garments.npz")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        images, labels, opacity, numbers = (
            torch.from_numpy(arrays[name]) for name in ("images", "labels", "opacity", "numbers")
        )
    return Garments(Pictures(images, labels, CLASS_NAMES, preprocessing), opacity, numbers)


def garments_split(preprocessing: Preprocessing, seed: int = 0) -> Split:
    """The same in three parts: of each class a quarter for validation and a quarter for test, drawn
    by `seed`. Enough to try a command, not to measure a network.

    Raises:
        ValueError: a network of more than 64 pixels a side.
    """
    pictures = garments(preprocessing).pictures
    order = torch.randperm(len(pictures), generator=generator(seed))
    parts = []
    for _ in range(2):
        taken, order = by_share(pictures.labels, order, len(pictures) // _SHARE)
        parts.append(Part(pictures, taken.sort().values))
    return Split(Part(pictures, order.sort().values), *parts, "garments that come with zfcuda")


def are_samples(path: str | os.PathLike[str] | None) -> bool:
    """Whether "garments" is asked for, the pictures that come with zfcuda, and no folder called
    so."""
    return path is not None and os.fspath(path) == _NAME and not Path(path).exists()
