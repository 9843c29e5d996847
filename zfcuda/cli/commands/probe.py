"""`zfcuda probe`: fit a linear classifier to each layer's features.

Freezes the network and fits a linear classifier to the features of each layer (section 5.2, table
7): how accuracy grows with depth says what a layer has made explicit. The strength of
regularisation is chosen on the validation part; the test part is read once.

examples:
  zfcuda probe --model zfnet_small
  zfcuda probe --model squeezenet1_1 --data photos --limit 2000 --layer features.3
  zfcuda probe --model mine/weights.safetensors --data pictures --size 2048

The data's classes need not be those that the network was trained on.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.storage.files import short_spec

if TYPE_CHECKING:
    from zfcuda.cli.network import Network
    from zfcuda.results.training import ProbeResult


def add_options(parser: argparse.ArgumentParser) -> None:
    names = (*arguments.MODEL, *arguments.LAYERS, *arguments.OUTPUT)
    words = "layers to probe (default: what each stage gives to the next)"
    arguments.add(parser, *names, layer=words)
    arguments.labelled_data(parser, "each part")
    arguments.number(parser, "--size", 1024, "larger maps are averaged to at most N numbers")
    parser.set_defaults(model="zfnet_small", limit=5000)


def run(options: argparse.Namespace) -> None:
    one_result(options, "layers-probe", _look)


def _look(network: Network, options: argparse.Namespace) -> Finding:
    from zfcuda.data.examples import drawn

    data = inputs.labelled_split(options, network)
    count, seed = options.limit, options.seed
    data = replace(data, **{name: drawn(part, count, seed) for name, part in data.parts().items()})
    result = zfcuda.linear_probe(
        network.model, data, options.layer, options.size, progress=not options.quiet
    )
    if network.class_names not in (None, data.training.class_names):
        # As many classes are not the same classes: the network answers something else.
        result = replace(result, network_accuracy=math.nan)
    figure = zfcuda.figures.probe(
        result, f"Linear classifiers on the features of {short_spec(network.spec)} ({data.kind})"
    )
    lines, title = result.table().splitlines(), "What each layer knows"
    return Finding(title, _findings(result), result, figure, "paper table 7", lines=lines)


def _findings(result: ProbeResult) -> str:
    layers = [i for i, name in enumerate(result.layers) if " " not in name]  # not the pixels
    best = max(layers, key=lambda i: float(result.accuracy[i]))
    low, high = result.interval[best].tolist()
    return (
        f"Test accuracy of a linear classifier on frozen features: {result.layers[best]} is best "
        f"with {result.accuracy[best]:.1%} (95% interval {100 * low:.1f} to {100 * high:.1f}%). "
        f"{_with_depth(result, layers)}{result.pictures[0]:,} training, {result.pictures[1]:,} "
        f"validation and {result.pictures[2]:,} test pictures."
    )


def _with_depth(result: ProbeResult, layers: Sequence[int]) -> str:
    """Between which layers accuracy falls, as far as so many test pictures can tell."""
    from zfcuda.results.base import differ

    if len(layers) < 2:
        return ""
    falls = [
        f"from {result.layers[before]} to {result.layers[after]}"
        for before, after in pairwise(layers)
        if result.accuracy[after] < result.accuracy[before]
        and differ(result.accuracy[before], result.accuracy[after], result.pictures[2])
    ]
    found = f"falls {', '.join(falls)}" if falls else "falls nowhere"
    return (
        f"With depth accuracy {found} by more than chance among {result.pictures[2]:,} test "
        "pictures explains (95%). "
    )
