"""Data sets: IDX files (Fashion-MNIST on coloured backgrounds), image folders, any torch Dataset.

`split` reads what a path holds, in three parts; see `Examples` for what a part can do.
"""

from __future__ import annotations

import os
from pathlib import Path

from zfcuda.data import Preprocessing
from zfcuda.datasets.examples import Examples, FromDataset, Pictures, Split
from zfcuda.datasets.fashion import ColouredFashion, fashion_mnist
from zfcuda.datasets.folder import image_folder
from zfcuda.datasets.idx import read_idx
from zfcuda.datasets.samples import Garments, garments

__all__ = [
    "ColouredFashion",
    "Examples",
    "FromDataset",
    "Garments",
    "Pictures",
    "Split",
    "fashion_mnist",
    "garments",
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

    Without a path, Fashion-MNIST where Debian's package `dataset-fashion-mnist` puts it.

    Raises: as those two.
    """
    if path is None or (Path(path).is_dir() and _holds_idx(Path(path))):
        return fashion_mnist(preprocessing, path, coloured, seed)
    return image_folder(path, preprocessing, seed, by_class)


def _holds_idx(folder: Path) -> bool:
    return any(folder.glob("*-ubyte")) or any(folder.glob("*-ubyte.gz"))
