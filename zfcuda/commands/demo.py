"""`zfcuda demo`: photographs that ship with scikit-image, explained."""

from __future__ import annotations

import argparse

from zfcuda.commands import _options

HELP = "explain two photographs with a trained SqueezeNet"
DESCRIPTION = (
    "Explains two photographs with a trained SqueezeNet: predictions, projections with and "
    "without the background, occlusion, rotation. Writes figures, their numbers and index.html."
)
EXAMPLES = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where to, on what."""
    _options.output(parser, "zfcuda-demo")


def run(options: argparse.Namespace) -> None:
    """Make the demo's page and print where it is."""
    from zfcuda import demo

    index = demo.run(options.out, options.device, progress=not options.quiet)
    print(f"open {index}")
