"""`zfcuda uncertainty`: say how certain the network is of a data set, and how often it is right.

Asks the network about labelled pictures it was not trained on: the entropy of its right and of its
wrong answers, whether its probabilities can be taken at their word (reliability curve and expected
calibration error), which classes it confuses, and the pictures it is least certain of with its
answers (the talk's supplement).

examples:
  zfcuda uncertainty --model zfnet_small
  zfcuda uncertainty --model mine/weights.safetensors --data pictures --part test
  zfcuda uncertainty --model squeezenet1_1 --data photos --limit 2000

Folders are named as the network names its classes. Where Fashion-MNIST is not installed the default
are the pictures that come with zfcuda.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.storage.files import short_spec

if TYPE_CHECKING:
    from zfcuda.cli.network import Network
    from zfcuda.results.predictions import UncertaintyResult


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, *arguments.OUTPUT)
    arguments.labelled_data(parser, "the images")
    parser.add_argument(
        "--part",
        choices=("validation", "test"),
        default="validation",
        help="of the data (default: %(default)s)",
    )
    arguments.number(parser, "--bins", 15, "of the reliability curve")
    parser.set_defaults(model="zfnet_small")


def run(options: argparse.Namespace) -> None:
    one_result(options, f"{options.part}-uncertainty", _look)


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.results.base import in_words

    examples, what = inputs.labelled_part(options, network)
    settings = {"bins": options.bins, "progress": not options.quiet, "outputs": network.outputs}
    result = zfcuda.uncertainty_of(network.model, examples, **settings)
    curve = result.reliability()
    title = f"Uncertainty of {short_spec(network.spec)}: {what}"
    figure = zfcuda.figures.uncertainty(
        result, network.display(result.images), examples.class_names, title
    )
    low, high = result.interval.tolist()
    text = (
        f"{what}: {result.accuracy:.2%} right (95% interval {100 * low:.1f} to {100 * high:.1f}%), "
        f"mean cross-entropy {result.cross_entropy:.3f} nats, "
        f"expected calibration error {curve.ece:.3f} in {result.bins} bins. Right answers have a "
        f"median entropy of {_median(result, True)} nats, wrong ones of {_median(result, False)}."
        + in_words(result.outputs)
    )
    return Finding("Uncertainty", text, result, figure, "talk, supplement")


def _median(result: UncertaintyResult, correct: bool) -> str:
    entropy = result.median_entropy(correct)
    return "–" if math.isnan(entropy) else f"{entropy:.2f}"
