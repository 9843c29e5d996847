"""A folder of pictures with one folder per class, and :func:`split`, which reads whatever a path
holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zfcuda.data.examples import Pictures, Split, by_share, generator
from zfcuda.data.fashion import are_samples, fashion_mnist, garments_split
from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import (
    idx_folder,
    images_and_others,
    read_image,
    require_folder,
    tell_left_out,
)

_MARGIN = 8 / 7  # pictures are kept larger than the input by the paper's 256 to 224, for crops
_SHARE = 10  # one picture in so many is for validation, and for test
_PARTS = {"training": ("train", "training"), "validation": ("val", "validation"), "test": ("test",)}


def image_folder(
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
    seed: int = 0,
    by_class: bool = True,
) -> Split:
    """`folder`/CLASS/*.jpg (or any image suffix) in three parts.

    Where the folder holds train, val and test (any of them may be missing but train) with a folder
    per class in each, these are the parts; what is missing is drawn from train. Otherwise one in
    ten is drawn for validation and one in ten for test, by `seed`, of each class its share
    (`by_class=False`: from all pictures together, as zfcuda 0.1.0 did). Pictures are squared and
    resized to 8/7 of the network's size, and held in memory (3 bytes a pixel).

    A picture that cannot be read is skipped; the split names every one.

    Raises:
        ValueError: no such folder, fewer than two classes, a class of which no picture can be read,
            too few pictures for three parts, or classes of val or test that train lacks.
    """
    folder = Path(folder)
    require_folder(folder, "with one folder per class")
    parts = _part_folders(folder)
    names = _class_names(parts.get("training", folder))
    skipped: list[str] = []
    read = {
        part: _read(where, names, preprocessing, skipped, everything=part == "training")
        for part, where in (parts or {"training": folder}).items()
    }
    drawn = _divide(read, seed, by_class)
    for part, (_, labels) in read.items():
        if len(labels) == 0:
            raise ValueError(f"'{folder}' has too few pictures: none is left for {part}")
    made = {part: Pictures(*pair, names, preprocessing) for part, pair in read.items()}
    return Split(**made, kind="pictures", source=str(folder), skipped=tuple(skipped), drawn=drawn)


def _part_folders(folder: Path) -> dict[str, Path]:
    found = {
        part: folder / name
        for part, names in _PARTS.items()
        for name in names
        if (folder / name).is_dir()
    }
    if "training" not in found:
        return {}
    # A class may bear such a name as well: beside other classes, with pictures instead of folders.
    others = set(_folders(folder)) - {name for names in _PARTS.values() for name in names}
    return {} if others and not _folders(found["training"]) else found


def _folders(folder: Path) -> list[str]:
    # A link to the folder itself, or to one that it is in, is no class.
    around = {folder.resolve(), *folder.resolve().parents}
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.resolve() not in around
    )


def _class_names(folder: Path) -> list[str]:
    names = _folders(folder)
    if len(names) < 2:
        found = f"only the class '{names[0]}'" if names else "no class"
        raise ValueError(
            f"'{folder}' holds {found}: expected one folder per class, at least two of them"
        )
    return names


def _read(
    folder: Path,
    names: Sequence[str],
    preprocessing: Preprocessing,
    skipped: list[str],
    everything: bool,
) -> tuple[Tensor, Tensor]:
    """The pictures uint8 [N,3,S,S] and labels of one part."""
    unknown = set(_class_names(folder)) - set(names)
    if unknown:
        raise ValueError(f"'{folder}' holds the class '{min(unknown)}', which training lacks")
    side = round(preprocessing.side * _MARGIN)
    images: list[Tensor] = []
    left: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        before = len(images)
        of_class = folder / name
        paths, others = images_and_others(of_class) if of_class.is_dir() else ([], [])
        for path in paths:
            try:
                images.append(_squared(read_image(path), side))
            except ValueError as error:
                skipped.append(str(error))
        left += others
        labels += [label] * (len(images) - before)
        if everything and len(images) == before:
            raise ValueError(f"'{of_class}' holds no picture that can be read")
    tell_left_out(left)
    return torch.stack(images) if images else torch.empty(0, 3, side, side), torch.tensor(labels)


def _squared(image: Image.Image, side: int) -> Tensor:
    """The largest centred square as uint8 [3,side,side]."""
    fitted = Preprocessing(size=side, resize=None).fit(image)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).contiguous()


def _divide(read: dict[str, tuple[Tensor, Tensor]], seed: int, by_class: bool) -> str:
    """Draw the parts that are missing from training; says how, or nothing if none was missing."""
    missing = [part for part in ("validation", "test") if part not in read]
    images, labels = read["training"]
    order = torch.randperm(len(labels), generator=generator(seed))
    count = len(labels) // _SHARE
    for part in missing:
        taken, order = by_share(labels, order, count) if by_class else order.tensor_split([count])
        read[part] = images[taken], labels[taken]
    kept = order.sort().values
    read["training"] = images[kept], labels[kept]
    return "by class" if missing and by_class else ""


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
