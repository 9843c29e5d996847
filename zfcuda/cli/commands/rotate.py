"""`zfcuda rotate`: turn the image, watch the answer.

Turns the image about its centre (section 4.1): the probability of the class, the predicted label
and the layers' features against the angle.

examples:
  zfcuda rotate --image cat.jpg --layer features.3 --layer features.12
  zfcuda rotate --image cat.jpg --angles=-45:45:1
  zfcuda rotate --image cat.jpg --angles 0,90,180,270 --target 285
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, each_image, figure_title

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "image")
    parser.add_argument(
        "--angles",
        default="0:360:5",
        metavar="START:STOP:STEP|A,B,C",
        help="degrees, counter-clockwise (default: %(default)s)",
    )
    words = {
        "layer": "layers whose features are compared with the upright image's",
        "fill": "colour outside the image",
    }
    arguments.add(parser, *arguments.LAYERS, "target", "fill", *arguments.OUTPUT, **words)


def run(options: argparse.Namespace) -> None:
    angles = _angles(options.angles)

    def look(network: Network, x: Tensor, path: str) -> Finding:
        settings = {"fill": network.fill(options.fill), "target": network.label(options.target)}
        about = (network, x, Path(path).name, angles, options.layer or [])
        return rotate(*about, progress=not options.quiet, **settings)

    each_image(options, look)


def rotate(
    network: Network,
    x: Tensor,
    name: str,
    angles: Sequence[float],
    layer: Sequence[str] = (),
    **settings: Any,
) -> Finding:
    """The rotation curve; `settings` go to `zfcuda.rotation`."""
    from zfcuda.experiments.invariance.experiment import rotation_matrices
    from zfcuda.results.base import called, in_words

    result = zfcuda.rotation(
        network.model, x, list(angles), layers=list(layer), outputs=network.outputs, **settings
    )
    shown = [angles[i] for i in _spread(len(angles), 8)]
    thumbnails = zfcuda.ops.warp_affine(x, rotation_matrices(shown, x.shape[2:]), result.fill)[0]
    figure = zfcuda.figures.invariance_curve(
        result,
        images=network.display(thumbnails),
        image_values=shown,
        class_names=network.class_names,
        title=figure_title(network, name, "rotation", layer),
    )
    classes = result.base_logits.shape[1]
    curves = [called(result.outputs, network.name(int(result.target[0]), classes))]
    if classes > 1:
        curves.append("the largest value" if result.outputs == "value" else "the predicted label")
    if layer:
        features = ", ".join(layer)
        curves.append(f"the distance of the features at {features} to those of the upright image")
    text = " and ".join(part for part in (", ".join(curves[:-1]), curves[-1]) if part)
    text = f"{text[:1].upper()}{text[1:]}, against the angle." + in_words(result.outputs)
    return Finding("Rotation", text, result, figure, "talk figure 6, paper figure 5")


def _angles(text: str) -> list[float]:
    """Degrees from "START:STOP:STEP" (both ends included) or "A,B,C", at most 3,600."""
    wrong = ValueError(
        f"angles {text!r}: expected START:STOP:STEP (as 0:360:5) or A,B,C in degrees"
    )
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = (float(part) for part in text.split(":"))
    except ValueError:
        raise wrong from None
    if not (step > 0 and stop >= start and (stop - start) / step < 3600):
        raise wrong
    return [start + step * i for i in range(int((stop - start) / step + 1e-9) + 1)]


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices of `count`, evenly spread, the last left out (360° is 0° again)."""
    wanted = min(count, wanted)
    return [i * (count - 1) // wanted if count > wanted else i for i in range(wanted)]
