"""`zfcuda info`: print versions, devices and how this zfcuda was built.

Prints versions, devices, and how this zfcuda was built, with the reason about CUDA.
"""

from __future__ import annotations

import argparse


def add_options(_parser: argparse.ArgumentParser) -> None:
    pass


def run(_options: argparse.Namespace) -> None:
    from zfcuda.cli import info
    from zfcuda.storage.terminal import say

    say(*str(info.collect()).splitlines())
