"""Data sets: IDX files (Fashion-MNIST on coloured backgrounds), image folders, any torch Dataset.

`split` reads what a path holds, in three parts; see `Examples` for what a part can do.
"""

from __future__ import annotations

from zfcuda.datasets.examples import Examples, FromDataset, Pictures, Split
from zfcuda.datasets.fashion import ColouredFashion, fashion_mnist
from zfcuda.datasets.folder import image_folder, split
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
