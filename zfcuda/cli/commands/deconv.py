"""`zfcuda deconv`: project a layer's units back to the image.

Projects units of a layer back to the image with a deconvnet (Zeiler & Fergus 2014, section 2.1):
what in the image made them respond.

examples:
  zfcuda deconv --list-layers
  zfcuda deconv --image cat.jpg --layer features.3 --layer features.12
  zfcuda deconv --image cat.jpg --layer features.6 --channel 12 -k 5 --out projections
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, each_image, figure_title

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channel", type=int, help="feature map (default: the strongest)")
    parser.add_argument(
        "--position",
        type=arguments.position,
        default="max",
        metavar="max|ROW,COLUMN",
        help="unit of the map (default: its largest activation)",
    )
    arguments.number(parser, "-k", 1, "project the K strongest units", metavar="K")
    parser.add_argument(
        "--rule",
        choices=("deconv", "gradient"),
        default="deconv",
        help="how signals pass a ReLU (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap",
        choices=("sum", "overwrite"),
        default="sum",
        help="what overlapping pooling windows do on the way down (default: %(default)s)",
    )
    names = (*arguments.MODEL, "image", *arguments.LAYERS, *arguments.OUTPUT)
    arguments.add(parser, *names, layer="one or more layers")


def run(options: argparse.Namespace) -> None:
    if not options.layer:
        raise ValueError("deconv needs --layer NAME; --list-layers prints the names")
    names = ("layer", "channel", "position", "k", "rule", "overlap")
    settings = {name: getattr(options, name) for name in names}
    settings["progress"] = not options.quiet
    each_image(options, lambda network, x, path: deconv(network, x, Path(path).name, **settings))


def deconv(
    network: Network, x: Tensor, name: str, layer: Sequence[str], **settings: Any
) -> Finding:
    """Deconvnet projections of the layers; `settings` go to `zfcuda.projections`."""
    result = zfcuda.projections(network.model, x, list(layer), **settings)
    k = len(result.columns)
    columns = (name,) if k == 1 else ("strongest", *(f"no. {i}" for i in range(2, k + 1)))
    result = replace(result, columns=columns)
    title = figure_title(network, name, "projections", layer, settings.get("channel"))
    shown = network.display(result.images), network.signals(result.projections)
    figure = zfcuda.figures.projection_grid(result, *shown, network.class_names, title)
    chosen = settings.get("channel") is not None or settings.get("position", "max") != "max"
    text = (
        f"What the {'chosen' if chosen else 'strongest'} {'unit' if k == 1 else 'units'} of each "
        "layer responded to, projected back to the input. Mid grey is no signal, squares mark what "
        "a unit sees; small ones are shown enlarged, above their image patch."
    )
    return Finding("Projections", text, result, figure, "talk figure 2")
