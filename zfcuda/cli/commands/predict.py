"""`zfcuda predict`: say what the image shows, and how sure that is.

The five most probable classes of each image with their probabilities, and the entropy of the whole
distribution: how uncertain the answer is.

examples:
  zfcuda predict --image cat.jpg dog.jpg
  zfcuda predict --model mine/weights.safetensors --image cat.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments
from zfcuda.cli.command import Finding, each_image, figure_title

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "image", *arguments.OUTPUT)


def run(options: argparse.Namespace) -> None:
    each_image(options, lambda network, x, path: predict(network, x, Path(path).name))


def predict(network: Network, x: Tensor, name: str) -> Finding:
    """The top-5 panel of one input."""
    from zfcuda.results.base import called, in_words

    result = zfcuda.predict(
        network.model, x, outputs=network.outputs, class_names=network.class_names
    )
    count = result.logits.shape[1]
    values, labels = (found[0].tolist() for found in result.top(min(5, count)))
    title = figure_title(network, name, "prediction")
    figure = zfcuda.figures.prediction(result, network.display(x), network.class_names, title=title)
    found = ", ".join(f"{network.name(i)} {p:.3f}" for i, p in zip(labels, values, strict=True))
    if count == 1:
        score = called(result.outputs, network.name(0, 1))
        text = f"{score[:1].upper()}{score[1:]} {values[0]:.3f}."
    elif result.outputs == "value":
        text = f"The largest values: {found}."
    else:
        text = f"The most probable classes: {found}."
    return Finding("Prediction", text + in_words(result.outputs), result, figure, "talk figure 3")
