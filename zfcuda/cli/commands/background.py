"""`zfcuda background`: put an object on other backgrounds, watch answers and projections.

Shows the network an object on its own background, on plain colours and cut out: the most probable
classes, the projections of the layers' strongest units, and how far both move. The object is what
the image's alpha channel, a mask file or a box tells; without any of them it is looked for in the
middle of the picture.

examples:
  zfcuda background --image cup.png --layer features.3 --layer features.12
  zfcuda background --image cat.jpg --mask cat-mask.png --colour black white "#1a4dcc"
  zfcuda background --image cat.jpg --box 30,0,400,290
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, each_image, figure_title
from zfcuda.storage.terminal import extra, remark

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from zfcuda.cli.network import Network


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "image")
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
    default = ["black", "white", "blue"]
    words = "backgrounds: black, #ff8000, ... (default: black white blue)"
    parser.add_argument("--colour", nargs="+", default=default, metavar="COLOUR", help=words)
    words = "layers to project (default: an early and a late layer)"
    arguments.add(parser, *arguments.LAYERS, "target", *arguments.OUTPUT, layer=words)


def _box(text: str) -> tuple[int, ...]:
    return arguments.integers(text, 4, "LEFT,TOP,RIGHT,BOTTOM in pixels")


def run(options: argparse.Namespace) -> None:
    from zfcuda.experiments.invariance.experiment import early_and_late

    colours = {f"on {name}": _rgb(name) for name in options.colour}
    masks: dict[str, tuple[Image, str]] = {}  # by the image's path, with what told them

    def check(path: str, image: Image) -> None:
        if options.mask and len(options.image) > 1:
            raise ValueError(f"--mask is that of one image, {len(options.image)} are given")
        masks[path] = _object(path, image, options)

    def look(network: Network, x: Tensor, path: str) -> Finding:
        mask, source = masks[path]
        if not options.quiet:
            remark(f"{path}: the object is told by {source}")
        layer = options.layer or early_and_late(network.model, x)
        about = (network, x, Path(path).name, fitted(mask, network, path), layer, colours)
        found = background(*about, network.label(options.target))
        return replace(found, settings={"object": source})

    each_image(options, look, check)


def background(
    network: Network,
    x: Tensor,
    name: str,
    mask: Tensor,
    layer: Sequence[str],
    colours: Mapping[str, tuple[float, float, float]],
    target: int | None = None,
) -> Finding:
    """The object on its background, on plain colours (RGB in 0..1) and cut out.

    Args:
        mask: [H,W] in 0..1, 1 on the object.
    """
    from zfcuda.results.base import in_words

    fills = {name: network.preprocessing.display_value(rgb) for name, rgb in colours.items()}
    result = zfcuda.background_effect(
        network.model, x, mask, list(layer), target, fills, outputs=network.outputs
    )
    title = figure_title(network, name, "the background's effect", layer)
    shown = network.display(result.images), network.signals(result.projections)
    figure = zfcuda.figures.background_effect(result, *shown, network.class_names, title)
    text = (
        "The same object on its own background, on plain colours and cut out (on the mean "
        "colour): what the network says, and what the strongest unit of each layer responds to. "
        "Squares mark what a unit sees; small ones are shown enlarged, above their image patch. "
        "“moved” is the length of a projection's change as a share of the original's length, “on "
        "object” the share of its energy (sum of squares) that lies on the object."
        + in_words(result.outputs)
    )
    heading = "What the background contributes"
    return Finding(heading, text, result, figure, "talk figures 3 and 4")


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
    return cut_out(image, options.box), source


_SIDE = 256  # pixels; larger pictures are cut out at this size
_ROUNDS = 3  # of GrabCut: more change nothing that is seen
_MARGIN = 0.05  # of the picture, that is background where no box is given


def cut_out(image: Image, box: Sequence[float] | None = None) -> Image:
    """The object in `box`, as a mask: "L", of the picture's size, 255 on the object, soft edges.

    By OpenCV's GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004).

    Args:
        box: (left, top, right, bottom) in pixels, with some background outside; None takes the
            picture without its outermost twentieth on each side.
    """
    with extra("cutting objects out needs OpenCV"):
        import cv2
    import numpy as np
    from PIL.Image import fromarray

    picture = np.asarray(zfcuda.data.to_rgb(image))[..., ::-1]  # BGR, as OpenCV has it
    inside = _inside(picture.shape[:2], box)
    scale = min(1.0, _SIDE / max(inside.shape))
    small = tuple(max(1, round(side * scale)) for side in inside.shape[::-1])
    mask = cv2.resize(inside, small, interpolation=cv2.INTER_NEAREST) * np.uint8(cv2.GC_PR_FGD)
    small_picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    mixtures = np.zeros((1, 65)), np.zeros((1, 65))  # what GrabCut works with
    cv2.setRNGSeed(0)  # the same picture, the same mask
    try:
        cv2.grabCut(small_picture, mask, None, *mixtures, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # less than a handful of pixels on one side
        mask[:] = cv2.GC_BGD
    found = mask == cv2.GC_PR_FGD
    if not found.any():
        raise ValueError("no object stands out in the box; draw it closer, or give a mask file")
    soft = cv2.resize(found * np.uint8(255), inside.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return fromarray(soft * inside)


def _inside(shape: tuple[int, int], box: Sequence[float] | None) -> np.ndarray:
    """Where the object may be: 1 in uint8 [H,W]."""
    import numpy as np

    height, width = shape
    if box is None:
        box = [round(side * part) for part in (_MARGIN, 1 - _MARGIN) for side in (width, height)]
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"box {tuple(box)}: expected left, top, right, bottom, in pixels within the "
            f"{width}×{height} picture"
        )
    inside = np.zeros(shape, dtype=np.uint8)
    inside[round(top) : round(bottom), round(left) : round(right)] = 1
    if inside.all() or not inside.any():
        raise ValueError(
            f"box {tuple(box)} must leave some background of the {width}×{height} picture"
        )
    return inside


def fitted(mask: Image, network: Network, path: str) -> Tensor:
    """The mask as the network's input shows it: [H,W] in 0..1, soft at the edge."""
    import numpy as np
    import torch

    fitted = np.asarray(network.preprocessing.fit(mask), dtype=np.float32) / 255
    if not fitted.any():
        raise ValueError(f"'{path}': the mask leaves nothing of the part that the network sees")
    return torch.from_numpy(fitted)
