"""`zfcuda deconv`: projections of a layer's units."""

from __future__ import annotations

import argparse

from zfcuda.cli import arguments, inputs

HELP = "project a layer's units back to the image"
DESCRIPTION = (
    "Projects units of a layer back to the image with a deconvnet (Zeiler & Fergus 2014, "
    "section 2.1): what in the image made them respond."
)
EXAMPLES = """examples:
  zfcuda deconv --list-layers
  zfcuda deconv --image cat.jpg --layer features.3 --layer features.12
  zfcuda deconv --image cat.jpg --layer features.6 --channel 12 -k 5 --out projections"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which units, by which rules."""
    arguments.model(parser)
    arguments.images(parser)
    arguments.layers(parser)
    parser.add_argument("--channel", type=int, help="feature map (default: the strongest)")
    parser.add_argument(
        "--position",
        type=arguments.position,
        default="max",
        metavar="max|ROW,COLUMN",
        help="unit of the map (default: its largest activation)",
    )
    parser.add_argument(
        "-k", type=int, default=1, metavar="K", help="project the K strongest units (default: 1)"
    )
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
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """Project every image's units."""
    from zfcuda.cli import jobs

    if not options.layer and not options.list_layers:
        raise ValueError("deconv needs --layer NAME; --list-layers prints the names")
    settings = {
        "channel": options.channel,
        "position": options.position,
        "k": options.k,
        "rule": options.rule,
        "overlap": options.overlap,
    }
    inputs.each_image(
        options,
        lambda network, x, name, stem, provenance: jobs.project(
            network, x, name, stem, options.layer, not options.quiet, provenance, **settings
        ),
    )
