"""Fashion-MNIST, plain and on coloured backgrounds.

The data set (Xiao, Rasul, Vollgraf 2017, arXiv 1708.07747; MIT licence): 70,000 grey pictures of
garments, 28 x 28 pixels, ten classes, black around the garment.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zfcuda.data.examples import Examples, Part, Pictures, Split, by_share, check_labels, generator
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import find_idx, read_idx

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package
PACKAGE = "dataset-fashion-mnist"
ADDRESS = "https://github.com/zalandoresearch/fashion-mnist (data/fashion)"
CLASS_NAMES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_TEST_LABELS_SHA256 = "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"
_PARTS = {"training": "train", "test": "t10k"}
_VALIDATION = 5_000  # of 60,000; a smaller set gives the same share
_SPLIT, _PLACES = range(2)  # what randomness is for

NOMINAL = 48  # pixels a side of the garment's picture
SCALES = (0.8, 1.2)


class ColouredFashion(Examples):
    """Garments placed on plain backgrounds, composited when they are asked for.

    A garment's picture g (grey in 0..1) is 48 pixels a side times a scale in 0.8..1.2, anywhere
    within the square input, and lies on a colour as ``g + (1 - min(1, 3 g)) * colour``: from a
    third of full brightness on it is opaque. Scale, place and colour are uniform; a picture's own
    are fixed by `seed`, varied ones are drawn anew and mirrored half of the time.

    Args:
        images: uint8 [N,h,w].
        labels: int64 [N].
        class_names: in label order.
        preprocessing: the network's; sizes other than 64 scale the garments with them.
        seed: of the unvaried pictures.
        coloured: False leaves every background black.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        seed: int = 0,
        coloured: bool = True,
    ) -> None:
        if images.dtype != torch.uint8 or images.dim() != 3:
            raise ValueError(
                f"images must be uint8 [N,h,w], got {images.dtype} {list(images.shape)}"
            )
        check_labels(labels, len(images), class_names)
        self.images, self.labels = images, labels
        self.class_names, self.preprocessing = tuple(class_names), preprocessing
        self.coloured = coloured
        self._own = torch.rand(len(images), 6, generator=generator(seed, _PLACES))

    def batch(self, indices: Tensor, rng: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        draws, mirrored = self._own[indices], None
        if rng is not None:
            draws = torch.rand(len(indices), 6, generator=rng)
            mirrored = torch.rand(len(indices), generator=rng) < 0.5
        pre = self.preprocessing
        gain = pre.scale / torch.tensor(pre.std)
        offset = -torch.tensor(pre.mean) / torch.tensor(pre.std)
        grey = self._grey(indices, draws, mirrored)
        colours = self._colours(draws)
        if pre.channels == "bgr":
            colours = colours.flip(1)
        x = _composited(grey, colours, gain, offset)
        return x, self.labels[indices]

    def composite(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The unvaried pictures [n,3,size,size], RGB in 0..1, and how opaque the garments are
        [n,size,size] in 0..1 (a mask for background experiments).

        Args:
            indices: int64 [n].
        """
        draws = self._own[indices]
        grey = self._grey(indices, draws)
        rgb = _composited(grey, self._colours(draws), torch.ones(3), torch.zeros(3))
        return rgb.contiguous(), (3 * grey).clamp(max=1)

    def colours(self, indices: Tensor) -> Tensor:
        """The unvaried pictures' background colours [n,3], RGB in 0..1."""
        return self._colours(self._own[indices])

    def _colours(self, draws: Tensor) -> Tensor:
        return draws[:, 3:] * self.coloured

    def _grey(self, indices: Tensor, draws: Tensor, mirrored: Tensor | None = None) -> Tensor:
        grey = self.images[indices].float() / 255
        return _placed(grey, draws[:, :3], self.preprocessing.side, mirrored)


def _placed(grey: Tensor, draws: Tensor, size: int, mirrored: Tensor | None = None) -> Tensor:
    """Pictures [n,h,w] resized bilinearly and placed on black [n,size,size]; where `mirrored`, the
    whole is turned left to right.

    Scaling and shifting act on rows and columns separately, so that both are one small matrix
    product each, for all pictures at once.
    """
    low, high = SCALES
    side = NOMINAL * size / 64 * (low + (high - low) * draws[:, 0])
    top, left = ((size - side) * draws[:, axis] for axis in (1, 2))
    rows = _resampling(top, side, grey.shape[1], size)
    columns = _resampling(left, side, grey.shape[2], size)
    if mirrored is not None:
        columns = torch.where(mirrored.view(-1, 1, 1), columns.flip(1), columns)
    with torch.autocast("cpu", enabled=False):  # it is the network's, not the pictures'
        return (rows @ grey @ columns.transpose(1, 2)).clamp(0, 1)


def _composited(grey: Tensor, colours: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """``(g + (1 - min(1, 3 g)) * colour) * gain + offset`` as [n,3,size,size], channels_last.

    All of it is one product of each pixel's (g, 1 - min(1, 3 g), 1) with a 3 x 3 matrix, several
    times faster than the same step by step: the result is written once.

    Args:
        grey: [n,size,size].
        colours: [n,3], in the order of the result's channels.
        gain, offset: [3].
    """
    count, size, _ = grey.shape
    clear = (1 - 3 * grey).clamp(min=0)
    pixels = torch.stack([grey, clear, torch.ones_like(grey)], -1).view(count, -1, 3)
    mix = torch.stack([gain.expand(count, 3), colours * gain, offset.expand(count, 3)], 1)
    with torch.autocast("cpu", enabled=False):
        return (pixels @ mix).view(count, size, size, 3).permute(0, 3, 1, 2)


def _resampling(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Matrices [n,size,source]: `source` samples spread over `length` pixels from `start`, linear
    in between, zero outside; pixel centres at +0.5."""
    at = (torch.arange(size) + 0.5 - start[:, None]) * (source / length[:, None]) - 0.5
    return (1 - (at[:, :, None] - torch.arange(source)).abs()).clamp(min=0)


def read_pair(folder: str | os.PathLike[str], part: str) -> tuple[Tensor, Tensor]:
    """Images uint8 [N,h,w] and labels int64 [N] of a `part`, "training" or "test".

    Raises:
        FileNotFoundError: a file is missing; says which, and where Fashion-MNIST can be had.
        ValueError: a file is damaged, or images and labels do not belong together.
    """
    paths = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        name = f"{_PARTS[part]}-{kind}"
        path = find_idx(folder, name)
        if path is None:
            raise FileNotFoundError(
                f"'{folder}' has no {name} (or {name}.gz). Fashion-MNIST's four files are at "
                f"{ADDRESS}; torchvision.datasets.FashionMNIST('DIR', download=True) fetches "
                "them, too: name their folder with --data DIR. On Debian, root can "
                f"`apt install {PACKAGE}`. `--data garments`: a few pictures that come with zfcuda"
            )
        paths.append(path)
    images, labels = map(read_idx, paths)
    if images.dim() != 3 or labels.shape != images.shape[:1] or 0 in images.shape:
        raise ValueError(
            f"'{paths[0]}' {list(images.shape)} and '{paths[1]}' {list(labels.shape)} do not "
            "belong together: expected [N,h,w] images, none of them empty, and [N] labels"
        )
    return images, labels.long()


def _names(test_labels: Tensor, classes: int) -> tuple[str, ...]:
    # The same four file names may hold digits or letters: only the contents can tell.
    if hashlib.sha256(bytes(test_labels.tolist())).hexdigest() == _TEST_LABELS_SHA256:
        return CLASS_NAMES
    return tuple(f"class {label}" for label in range(classes))


def fashion_mnist(
    preprocessing: Preprocessing,
    folder: str | os.PathLike[str] | None = None,
    coloured: bool = True,
    seed: int = 0,
) -> Split:
    """Fashion-MNIST, or another set in the four IDX files of the MNIST family, in three parts.

    One in twelve of the training pictures (5,000 of 60,000), drawn by `seed`, are for validation.

    Args:
        preprocessing: the network's.
        folder: of the IDX files (.gz or not); default where Debian's package puts them.
        coloured: whether backgrounds are coloured or black.
        seed: of the split, and of the validation and test pictures' places and colours.

    Raises:
        FileNotFoundError, ValueError: as `read_pair`; a single class; fewer than 12 pictures.
    """
    folder = FOLDER if folder is None else Path(folder)
    images, labels = read_pair(folder, "training")
    test_images, test_labels = read_pair(folder, "test")
    classes = int(torch.cat([labels, test_labels]).max()) + 1
    if len(labels.unique()) < 2:
        raise ValueError(f"'{folder}' has a single class: there is nothing to learn")
    if len(labels) < 12:
        raise ValueError(f"'{folder}' has {len(labels)} training pictures: expected at least 12")
    names = _names(test_labels, classes)
    what = "Fashion-MNIST" if names == CLASS_NAMES else "IDX files"
    order = torch.randperm(len(labels), generator=generator(seed, _SPLIT))
    count = len(labels) * _VALIDATION // 60_000

    def part(images: Tensor, labels: Tensor) -> ColouredFashion:
        return ColouredFashion(images, labels, names, preprocessing, seed, coloured)

    held, kept = order[:count].sort().values, order[count:].sort().values
    return Split(
        part(images[kept], labels[kept]),
        part(images[held], labels[held]),
        part(test_images, test_labels),
        f"{what}, {'coloured' if coloured else 'black'} backgrounds",
        str(folder),
    )


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
    file = resources.files("zfcuda.data").joinpath("garments.npz")
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
