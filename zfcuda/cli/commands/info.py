"""`zfcuda info`: what this installation is."""

from __future__ import annotations

import argparse

HELP = "print versions, devices and how this zfcuda was built"
DESCRIPTION = "Prints versions, devices, and how this zfcuda was built, with the reason about CUDA."
EXAMPLES = ""


def add_options(_parser: argparse.ArgumentParser) -> None:
    """None."""


def run(_options: argparse.Namespace) -> None:
    """Print it."""
    from zfcuda.cli import info
    from zfcuda.storage.terminal import say

    say(*str(info.collect()).splitlines())
