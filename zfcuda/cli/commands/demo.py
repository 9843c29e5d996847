"""`zfcuda demo`: explain two photographs and a garment with trained networks.

Explains two photographs with a trained SqueezeNet, and a garment with the ZF network that ships
with zfcuda: predictions, projections with and without the background, occlusion, rotation; and the
curves of that network's training. Writes figures, their numbers and index.html.
"""

from __future__ import annotations

import argparse

from zfcuda.cli import arguments


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, "out", "device", "quiet")
    parser.set_defaults(out="zfcuda-demo")


def run(options: argparse.Namespace) -> None:
    from zfcuda.cli import demo
    from zfcuda.storage.terminal import say

    index = demo.run(options.out, options.device, progress=not options.quiet)
    say(f"open {index}")
