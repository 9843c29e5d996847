"""`zfcuda correspond`: whether hiding the same part changes every image's features alike."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, one_result, stems
from zfcuda.storage.files import short_spec

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.results.correspondence import CorrespondenceResult

HELP = "hide the same part of several images, compare what changes"
DESCRIPTION = (
    "Hides the same part of several images (section 4.4, table 1) and compares, between each two "
    "of them, in which direction the features of an early and of a late layer change: the fewer "
    "signs differ, the more the network takes the part for the same thing. By default on faces "
    "that come with scikit-image: right eye, left eye and nose, against random places."
)
EXAMPLES = """examples:
  zfcuda correspond
  zfcuda correspond --model zfnet_small --faces 100 --layer pool1 --layer relu7
  zfcuda correspond --parts dogs.csv

--parts names a table of your own images, with the columns image, part, left, top, right, bottom
(pixels of the image) and every part for every image; image files are looked for beside it"""

_OWN, _SAME = "random, each image its own", "random, the same for all"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The images, their parts, and what they are compared with."""
    arguments.model(parser)
    arguments.layers(parser, "layers to compare at (default: an early and a late)")
    parser.add_argument(
        "--parts", metavar="FILE.csv", help="images and parts of your own; see below"
    )
    parser.add_argument(
        "--faces", type=int, default=50, metavar="N", help="how many faces (default: %(default)s)"
    )
    parser.add_argument(
        "--places",
        type=int,
        default=10,
        metavar="N",
        help="how often random places are drawn (default: %(default)s)",
    )
    parser.add_argument(
        "--fill",
        default="grey",
        metavar="COLOUR",
        help="what is shown instead: grey, black, #ff8000, ..., or mean, the model's mean "
        "(default: %(default)s)",
    )
    arguments.seed(parser)
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """One table."""
    if options.places < 1 and not options.list_layers:
        raise ValueError(f"--places {options.places}: expected at least 1")
    (name,) = stems([options.parts or "faces"], options.command)
    one_result(options, name, lambda network: _look(network, options))


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.cli import parts
    from zfcuda.experiments.invariance.study import early_and_late

    if options.parts:
        x, parts = parts.parts_of_table(options.parts, network.preprocessing)
    else:
        x, parts = parts.faces(options.faces, network.preprocessing)
    x = x.to(network.device)
    result = zfcuda.correspondence(
        network.model,
        x,
        parts | _controls(parts, x, options),
        options.layer or early_and_late(network.model, x),
        controls=(_OWN, _SAME),
        fill=network.fill(options.fill),
        progress=not options.quiet,
    )
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
    size = (x.shape[2], x.shape[3])
    return {
        name: random_places(
            options.places, len(x), size, (height, width), options.seed, together=name == _SAME
        )
        for name in (_OWN, _SAME)
    }


def _findings(result: CorrespondenceResult) -> str:
    """What came out, as it is: which parts are more consistent than random, layer by layer."""
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
