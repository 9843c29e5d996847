"""`zfcuda diagram`: draw a layer of the model with its deconvnet layer.

Draws a convnet layer of the model with the deconvnet layer attached to it (section 2.1, figure 1),
read off the model's own graph: every call, the shapes, what goes down in its place, and how pooling
windows of the image are pooled and unpooled by their switches.

examples:
  zfcuda diagram --image cat.jpg
  zfcuda diagram --image cat.jpg --layer features.3
  zfcuda diagram --model torchvision:resnet18 --image cat.jpg --layer layer2.0
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, each_image

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="layer to draw, or a block of several; of one that is called several times the last "
        "call (default: the first max-pooling's, ordered by last calls; without any, the first "
        "convolution's)",
    )
    arguments.number(parser, "--depth", 10, "draw at most N calls one after the other")
    arguments.add(parser, *arguments.MODEL, "image", "list_layers", *arguments.OUTPUT)


def run(options: argparse.Namespace) -> None:
    from zfcuda.experiments.invariance.experiment import early_and_late

    def look(network: Network, x: Tensor, path: str) -> Finding:
        name = Path(path).name
        layer = options.layer or early_and_late(network.model, x)[0]
        result = zfcuda.diagram_of(network.model, x, layer, options.depth)
        figure = zfcuda.figures.diagram(
            result, network.preprocessing, f"{layer} and its deconvnet layer, on {name}"
        )
        text = (
            f"Right, upwards: what the network computes to get {layer} from {name}. Left, "
            "downwards: what the deconvnet does with the strongest activation, call by call. "
            "Numbers beside arrows are shapes."
        )
        if result.switch:
            text += (
                f" Below: windows of {result.switch.name} around its strongest unit; the switch "
                "is where in its window the maximum is, and unpooling puts it back there."
            )
        return Finding("Diagram", text, result, figure, "paper figure 1, talk figures 1, 2")

    each_image(options, look)
