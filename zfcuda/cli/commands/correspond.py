"""`zfcuda correspond`: hide the same part of several images, compare what changes.

Hides the same part of several images (section 4.4, table 1) and compares, between each two of them,
in which direction the features of an early and of a late layer change: the fewer signs differ, the
more the network takes the part for the same thing. By default on faces that come with scikit-image:
right eye, left eye and nose, against random places.

examples:
  zfcuda correspond
  zfcuda correspond --model zfnet_small --faces 100 --layer pool1 --layer relu7
  zfcuda correspond --parts dogs.csv

--parts names a table of your own images, with the columns image, part, left, top, right, bottom
(pixels of the image) and every part for every image; image files are looked for beside it
"""

from __future__ import annotations

import argparse
import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, one_result, stems
from zfcuda.storage.files import short_spec
from zfcuda.storage.terminal import extra

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.data.preprocessing import Preprocessing
    from zfcuda.results.correspondence import CorrespondenceResult

_OWN, _SAME = "random, each image its own", "random, the same for all"


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL)
    parser.add_argument(
        "--parts", metavar="FILE.csv", help="images and parts of your own; see below"
    )
    arguments.number(parser, "--faces", 50, "how many faces")
    arguments.number(parser, "--places", 10, "how often random places are drawn")
    words = {
        "layer": "layers to compare at (default: an early and a late)",
        "fill": "what is shown instead",
    }
    arguments.add(parser, *arguments.LAYERS, "fill", "seed", *arguments.OUTPUT, **words)


def run(options: argparse.Namespace) -> None:
    if options.places < 1:
        raise ValueError(f"--places {options.places}: expected at least 1")
    (name,) = stems([options.parts or "faces"], options.command)
    one_result(options, name, _look)


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.experiments.invariance.experiment import early_and_late

    if options.parts:
        x, parts = _parts_of_table(Path(options.parts), network.preprocessing)
    else:
        x, parts = _faces(options.faces, network.preprocessing)
    x = x.to(network.device)
    layers = options.layer or early_and_late(network.model, x)
    settings = {"controls": (_OWN, _SAME), "fill": network.fill(options.fill)}
    settings["progress"] = not options.quiet
    parts |= _controls(parts, x, options)
    result = zfcuda.correspondence(network.model, x, parts, layers, **settings)
    what = f"{len(x)} {'images' if options.parts else 'faces'}"
    figure = zfcuda.figures.correspondence(
        result, network.display(x), f"{what}: the same part hidden, {short_spec(network.spec)}"
    )
    lines = result.table().splitlines()
    return Finding(
        "Correspondence", _findings(result), result, figure, "paper table 1", lines=lines
    )


def _controls(
    parts: dict[str, Tensor], x: Tensor, options: argparse.Namespace
) -> dict[str, Tensor]:
    """Random places of the parts' middle size."""
    import torch

    from zfcuda.experiments.correspondences import random_places

    boxes = torch.cat([boxes.reshape(-1, 4) for boxes in parts.values()])
    height, width = (boxes[:, 2:] - boxes[:, :2]).median(0).values.tolist()
    where = (options.places, len(x), tuple(x.shape[2:]), (height, width), options.seed)
    return {name: random_places(*where, together=name == _SAME) for name in (_OWN, _SAME)}


def _findings(result: CorrespondenceResult) -> str:
    parts = [part for part in result.parts if part not in result.controls]
    sentences = [
        "Mean share of the signs of change that differ between two images, ± standard deviation "
        "over pairs; lower is more consistent."
    ]
    if result.boxes[parts[0]].shape[1] < 3:  # images
        return f"{sentences[0]} Two images do not tell how certain a difference is."
    for control in result.controls:
        for layer in result.layers:
            better = [part for part in parts if _is_lower(result, layer, part, control)]
            names = "all parts" if len(better) == len(parts) else ", ".join(better)
            sentences.append(
                f"At {layer}, {names or 'no part'} {'is' if len(better) < 2 else 'are'} more "
                f"consistent than “{control}”."
            )
    sentences.append(
        "Against places of their own, an early layer favours anything that lies at the same place "
        "in all images, since elsewhere other elements change; the same place for all is the "
        "control for that. A difference counts from two standard errors on."
    )
    return " ".join(sentences)


def _is_lower(result: CorrespondenceResult, layer: str, part: str, control: str) -> bool:
    difference, error = result.advantage(layer, part, control)
    return difference > 2 * error


# --- images with parts to hide: scikit-image's faces, or a table of one's own ---------------------

# Of the 25 x 25 pixel faces, all of which are aligned: where to find the parts, as the upper left
# corner of a box, (row, column). Right and left are the person's own.
_FACE_PARTS = {"right eye": (6, 3), "left eye": (6, 11), "nose": (11, 7)}
_FACE_BOX = (5, 7)  # pixels, height and width
_FACES = 100  # of the 200 pictures; the others show none


def _faces(count: int, preprocessing: Preprocessing) -> tuple[Tensor, dict[str, Tensor]]:
    """scikit-image's faces [N,3,H,W], enlarged to the network's input, and by name the box int64
    [4] of each part."""
    import numpy as np
    import torch
    from PIL.Image import fromarray

    if not 2 <= count <= _FACES:
        raise ValueError(f"--faces {count}: expected 2 to {_FACES}")
    with extra(
        "the faces come with scikit-image", more=", or name images of your own with --parts"
    ):
        from skimage import data
    # All of the face is to be seen, also where photographs are cropped.
    whole = replace(preprocessing, resize=None)
    pictures = [
        fromarray(np.rint(face * 255).astype(np.uint8)) for face in data.lfw_subset()[:count]
    ]
    height, width = _FACE_BOX
    parts = {
        name: _seen(whole, pictures[0], (left, top, left + width, top + height), name)
        for name, (top, left) in _FACE_PARTS.items()
    }
    return torch.cat([whole.to_input(picture) for picture in pictures]), parts


def _parts_of_table(path: Path, preprocessing: Preprocessing) -> tuple[Tensor, dict[str, Tensor]]:
    """The images that a table names [N,3,H,W], and by name the boxes int64 [N,4] of each part."""
    import torch

    table = _table_of_parts(path)
    pictures = {name: zfcuda.data.read_image(path.parent / name) for name in table}
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
    preprocessing: Preprocessing, picture: Image, box: tuple[float, ...], what: str
) -> Tensor:
    """Where the network's input shows a box (left, top, right, bottom) of the picture: int64 [4] as
    (y0, x0, y1, x1)."""
    import torch
    from PIL import Image, ImageDraw

    left, top, right, bottom = box
    mask = Image.new("L", picture.size, 0)
    if right > left and bottom > top:
        ImageDraw.Draw(mask).rectangle((left, top, right - 1, bottom - 1), fill=255)
    found = preprocessing.fit(mask).point(lambda value: 255 * (value > 127)).getbbox()
    if found is None:
        raise ValueError(f"{what}: the box {box} shows nothing of what the network sees")
    return torch.tensor([found[1], found[0], found[3], found[2]])
