"""`zfcuda predict`: what the network says."""

from __future__ import annotations

import argparse

from zfcuda.cli import arguments, inputs

HELP = "say what the image shows, and how sure that is"
DESCRIPTION = (
    "The five most probable classes of each image with their probabilities, and the entropy of "
    "the whole distribution: how uncertain the answer is."
)
EXAMPLES = """examples:
  zfcuda predict --image cat.jpg dog.jpg
  zfcuda predict --model mine/weights.safetensors --image cat.jpg"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The model and the images."""
    arguments.model(parser)
    arguments.images(parser)
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """Predict every image."""
    from zfcuda.cli import jobs

    inputs.each_image(options, jobs.predict)
