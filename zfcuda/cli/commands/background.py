"""`zfcuda background`: what an object's background contributes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda.cli import arguments, inputs

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from zfcuda.cli.network import Network

HELP = "put an object on other backgrounds, watch answers and projections"
DESCRIPTION = (
    "Shows the network an object on its own background, on plain colours and cut out: the most "
    "probable classes, the projections of the layers' strongest units, and how far both move. The "
    "object is what the image's alpha channel, a mask file or a box tells; without any of them it "
    "is looked for in the middle of the picture."
)
EXAMPLES = """examples:
  zfcuda background --image cup.png --layer features.3 --layer features.12
  zfcuda background --image cat.jpg --mask cat-mask.png --colour black white "#1a4dcc"
  zfcuda background --image cat.jpg --box 30,0,400,290"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the object is, and what it is put on."""
    arguments.model(parser)
    arguments.images(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--mask", metavar="FILE", help="picture of the image's size, white on the object"
    )
    where.add_argument(
        "--box",
        type=_box,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="the object is cut out of this box, in pixels of the image, by its colours and edges",
    )
    parser.add_argument(
        "--colour",
        nargs="+",
        default=["black", "white", "blue"],
        metavar="COLOUR",
        help="backgrounds: black, #ff8000, ... (default: black white blue)",
    )
    arguments.layers(parser, "layers to project (default: an early and a late layer)")
    parser.add_argument(
        "--target", metavar="LABEL|NAME", help="class to watch (default: the most probable)"
    )
    arguments.output(parser)


def _box(text: str) -> tuple[int, ...]:
    try:
        box = tuple(int(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LEFT,TOP,RIGHT,BOTTOM in pixels")
    return box


def run(options: argparse.Namespace) -> None:
    """Every image on every background."""
    from zfcuda import data
    from zfcuda.cli import jobs
    from zfcuda.cli.network import Network
    from zfcuda.experiments.invariance.study import early_and_late
    from zfcuda.report.writing import Provenance, announce, place, writable_folder
    from zfcuda.storage.terminal import remark

    if options.list_layers:
        inputs.list_layers(Network.of(options))
        return
    if not options.image:
        raise ValueError("background needs --image FILE")
    if options.mask and len(options.image) > 1:
        raise ValueError(f"--mask is that of one image, {len(options.image)} are given")
    colours = {f"on {name}": _rgb(name) for name in options.colour}
    images = [data.read_image(path) for path in options.image]
    masks = [
        _object(path, image, options) for path, image in zip(options.image, images, strict=True)
    ]
    folder = writable_folder(options.out)
    network = Network.of(options)
    stems = inputs.stems(options.image, options.command)
    for path, stem, image, (mask, source) in zip(options.image, stems, images, masks, strict=True):
        if not options.quiet:
            remark(f"{path}: the object is told by {source}")
        x = network.input(image)
        provenance = Provenance.of_image(options, network.facts(), path, object=source)
        entry = jobs.background(
            network,
            x,
            _fitted(mask, network, path),
            Path(path).name,
            place(folder / stem, provenance),
            options.layer or early_and_late(network.model, x),
            colours,
            provenance,
            network.label(options.target),
        )
        announce(entry)


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    try:
        return to_rgb(colour)
    except ValueError:
        raise ValueError(f"--colour {colour!r}: expected a colour (black, #ff8000, 0.5)") from None


def _object(path: str, image: Image, options: argparse.Namespace) -> tuple[Image, str]:
    """The object's mask, white on it, of the image's size, and what it was told by."""
    from PIL import ImageChops

    from zfcuda import data
    from zfcuda.cli.segmentation import segment

    if options.mask:
        mask = data.read_image(options.mask).convert("L")
        opacity = data.read_alpha(options.mask)  # what is transparent is shown on white
        mask = mask if opacity is None else ImageChops.multiply(mask, opacity)
        if mask.size != image.size:
            raise ValueError(
                f"mask '{options.mask}' has {mask.width}×{mask.height} pixels, '{path}' "
                f"{image.width}×{image.height}: expected the same"
            )
        return mask, f"'{options.mask}'"
    alpha = None if options.box else data.read_alpha(path)
    if alpha is not None and alpha.getextrema()[0] < 255:
        return alpha, "its alpha channel"
    source = "its colours and edges in the box" if options.box else "what stands out in the middle"
    return segment(image, options.box), source


def _fitted(mask: Image, network: Network, path: str) -> Tensor:
    """The mask as the network's input shows it: [H,W] in 0..1."""
    import numpy as np
    import torch

    fitted = np.asarray(network.preprocessing.fit(mask), dtype=np.float32) / 255
    if not fitted.any():
        raise ValueError(f"'{path}': the mask leaves nothing of the part that the network sees")
    return torch.from_numpy(fitted)
