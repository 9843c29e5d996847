"""Images with parts to hide: scikit-image's faces, or a table of one's own."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.data.reading import read_image

__all__ = ["faces", "parts_of_table"]

# Of the 25 x 25 pixel faces, all of which are aligned: where to find the parts, as the upper left
# corner of a box, (row, column). Right and left are the person's own.
_FACE_PARTS = {"right eye": (6, 3), "left eye": (6, 11), "nose": (11, 7)}
_FACE_BOX = (5, 7)  # pixels, height and width
_FACES = 100  # of the 200 pictures; the others show none


def faces(count: int, preprocessing: Preprocessing) -> tuple[Tensor, dict[str, Tensor]]:
    """scikit-image's faces [N,3,H,W], enlarged to the network's input, and by name the box int64
    [4] of each part."""
    if not 2 <= count <= _FACES:
        raise ValueError(f"--faces {count}: expected 2 to {_FACES}")
    try:
        from skimage import data
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'the faces come with scikit-image; install it with: pip install "zfcuda[demo]", or '
            "name images of your own with --parts"
        ) from None
    # All of the face is to be seen, also where photographs are cropped.
    whole = dataclasses.replace(preprocessing, resize=None)
    pictures = [
        Image.fromarray(np.rint(face * 255).astype(np.uint8)) for face in data.lfw_subset()[:count]
    ]
    height, width = _FACE_BOX
    parts = {
        name: _seen(whole, pictures[0], (left, top, left + width, top + height), name)
        for name, (top, left) in _FACE_PARTS.items()
    }
    return torch.cat([whole.to_input(picture) for picture in pictures]), parts


def parts_of_table(
    path: str | os.PathLike[str], preprocessing: Preprocessing
) -> tuple[Tensor, dict[str, Tensor]]:
    """The images that a table names [N,3,H,W], and by name the boxes int64 [N,4] of each part.

    Raises:
        ValueError: no such table or image, or parts that are not those of the other images.
    """
    path = Path(path)
    table = _table_of_parts(path)
    pictures = {name: read_image(path.parent / name) for name in table}
    parts = [*next(iter(table.values()))]
    for name, boxes in table.items():
        if boxes.keys() != set(parts):
            odd = min(boxes.keys() ^ set(parts))
            raise ValueError(
                f"'{path}': '{name}' and '{next(iter(table))}' do not have the same "
                f"parts ({odd!r}): expected every part for every image"
            )
    seen = {
        part: torch.stack(
            [_seen(preprocessing, pictures[n], table[n][part], f"{part} of {n}") for n in table]
        )
        for part in parts
    }
    return torch.cat([preprocessing.to_input(picture) for picture in pictures.values()]), seen


def _table_of_parts(path: Path) -> dict[str, dict[str, tuple[float, ...]]]:
    """image -> part -> (left, top, right, bottom)."""
    columns = ("image", "part", "left", "top", "right", "bottom")
    table: dict[str, dict[str, tuple[float, ...]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if not set(columns) <= set(reader.fieldnames or ()):
                raise ValueError(f"expected the columns {', '.join(columns)}")
            for row in reader:
                box = tuple(float(row[edge] or "") for edge in columns[2:])
                if not all(map(math.isfinite, box)):
                    raise ValueError(f"line {reader.line_num}: the box {box} is not finite")
                table.setdefault(row["image"], {})[row["part"]] = box
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"'{path}' is not a table of parts: {error}") from error
    if len(table) < 2:
        raise ValueError(f"'{path}' has {len(table)} images: expected at least two to compare")
    return table


def _seen(
    preprocessing: Preprocessing, picture: Image.Image, box: tuple[float, ...], what: str
) -> Tensor:
    """Where the network's input shows a box (left, top, right, bottom) of the picture: int64 [4] as
    (y0, x0, y1, x1)."""
    left, top, right, bottom = box
    mask = Image.new("L", picture.size, 0)
    if right > left and bottom > top:
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    found = preprocessing.fit(mask).point(lambda value: 255 * (value > 127)).getbbox()
    if found is None:
        raise ValueError(f"{what}: the box {box} shows nothing of what the network sees")
    return torch.tensor([found[1], found[0], found[3], found[2]])
