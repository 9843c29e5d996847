"""`zfcuda rotate`: how far the answer survives turning the image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda.cli import arguments, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.report.entries import Entry
    from zfcuda.report.writing import Provenance

HELP = "turn the image, watch the answer"
DESCRIPTION = (
    "Turns the image about its centre (section 4.1): the probability of the class, the "
    "predicted label and the layers' features against the angle."
)
EXAMPLES = """examples:
  zfcuda rotate --image cat.jpg --layer features.3 --layer features.12
  zfcuda rotate --image cat.jpg --angles=-45:45:1
  zfcuda rotate --image cat.jpg --angles 0,90,180,270 --target 285"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The angles, and what is watched."""
    arguments.model(parser)
    arguments.images(parser)
    arguments.layers(parser, "layers whose features are compared with the upright image's")
    parser.add_argument(
        "--angles",
        default="0:360:5",
        metavar="START:STOP:STEP|A,B,C",
        help="degrees, counter-clockwise (default: %(default)s)",
    )
    arguments.score(parser, "colour outside the image")
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """Turn every image."""
    from zfcuda.cli import jobs

    angles = jobs.angles(options.angles)

    def job(network: Network, x: Tensor, name: str, stem: Path, provenance: Provenance) -> Entry:
        return jobs.rotate(
            network,
            x,
            name,
            stem,
            angles,
            options.layer or [],
            not options.quiet,
            provenance,
            fill=network.fill(options.fill),
            target=network.label(options.target),
        )

    inputs.each_image(options, job)
