"""`zfcuda predict`: what the network says."""

from __future__ import annotations

import argparse

from zfcuda.commands import _images, _options

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
    _options.model(parser)
    _options.images(parser)
    _options.output(parser)


def run(options: argparse.Namespace) -> None:
    """Predict every image."""
    from zfcuda import _jobs

    _images.each_image(options, _jobs.predict)
