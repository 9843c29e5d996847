"""Images in and out: :mod:`.reading` files safely, and the one place where pixels become network
input (:mod:`.preprocessing`).

`read_image` turns a picture of the usual formats into 8-bit RGB, or raises one sentence that names
the file. `Preprocessing` holds what a network expects of its input and runs in both directions, so
that a figure can show an input, or a projection onto it, as the picture it stands for.
"""

from __future__ import annotations

from zfcuda.data.examples import Examples, FromDataset, Pictures, Split
from zfcuda.data.fashion import (
    ColouredFashion,
    Garments,
    are_samples,
    fashion_mnist,
    garments,
    garments_split,
)
from zfcuda.data.folder import image_folder, split
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import (
    IMAGE_SUFFIXES,
    idx_folder,
    list_images,
    read_alpha,
    read_idx,
    read_image,
    to_rgb,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "ColouredFashion",
    "Examples",
    "FromDataset",
    "Garments",
    "Pictures",
    "Preprocessing",
    "Split",
    "are_samples",
    "fashion_mnist",
    "garments",
    "garments_split",
    "idx_folder",
    "image_folder",
    "list_images",
    "read_alpha",
    "read_idx",
    "read_image",
    "split",
    "to_rgb",
]
