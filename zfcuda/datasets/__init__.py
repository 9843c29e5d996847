"""Data sets: IDX files (Fashion-MNIST on coloured backgrounds), image folders, any torch Dataset.

`split` reads what a path holds, in three parts; see `Examples` for what a part can do.
"""

from __future__ import annotations

import os

from zfcuda.data import Preprocessing
from zfcuda.datasets.examples import Examples, FromDataset, Pictures, Split
from zfcuda.datasets.fashion import ColouredFashion, fashion_mnist
from zfcuda.datasets.folder import image_folder
from zfcuda.datasets.idx import idx_folder, read_idx
from zfcuda.datasets.samples import Garments, are_samples, garments, garments_split

__all__ = [
    "ColouredFashion",
    "Examples",
    "FromDataset",
    "Garments",
    "Pictures",
    "Split",
    "are_samples",
    "fashion_mnist",
    "garments",
    "garments_split",
    "idx_folder",
    "image_folder",
    "read_idx",
    "split",
]


def split(
    preprocessing: Preprocessing,
    path: str | os.PathLike[str] | None = None,
    coloured: bool = True,
    seed: int = 0,
    by_class: bool = True,
) -> Split:
    """What `path` holds: IDX files (see `fashion_mnist`) or one folder per class (`image_folder`).

    Without a path, Fashion-MNIST where Debian's package `dataset-fashion-mnist` puts it; "garments"
    are the pictures that come with zfcuda (`garments_split`), unless there is such a folder.

    Raises: as those three.
    """
    if path is None:
        return fashion_mnist(preprocessing, None, coloured, seed)
    if are_samples(path):
        return garments_split(preprocessing, seed)
    if (folder := idx_folder(path)) is not None:
        return fashion_mnist(preprocessing, folder, coloured, seed)
    return image_folder(path, preprocessing, seed, by_class)
