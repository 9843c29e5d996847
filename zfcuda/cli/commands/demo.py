"""`zfcuda demo`: photographs that ship with scikit-image, and a garment, explained."""

from __future__ import annotations

import argparse

from zfcuda.cli import arguments

HELP = "explain two photographs and a garment with trained networks"
DESCRIPTION = (
    "Explains two photographs with a trained SqueezeNet, and a garment with the ZF network that "
    "ships with zfcuda: predictions, projections with and without the background, occlusion, "
    "rotation; and the curves of that network's training. Writes figures, their numbers and "
    "index.html."
)
EXAMPLES = ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where to, on what."""
    arguments.output(parser, "zfcuda-demo", pdf=False)


def run(options: argparse.Namespace) -> None:
    """Make the demo's page and print where it is."""
    from zfcuda.cli import demo
    from zfcuda.storage.terminal import say

    index = demo.run(options.out, options.device, progress=not options.quiet)
    say(f"open {index}")
