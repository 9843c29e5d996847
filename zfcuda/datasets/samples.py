"""A hundred-odd pictures of Fashion-MNIST's test part on coloured backgrounds, in the package.

``garments.npz`` is written by ``scripts/pack_zfnet_small.py``; its licence lies beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from zfcuda.data import Preprocessing
from zfcuda.datasets.examples import Pictures
from zfcuda.datasets.fashion import CLASS_NAMES

__all__ = ["Garments", "garments"]


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
