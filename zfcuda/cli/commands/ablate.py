"""`zfcuda ablate`: train the network with layers removed or resized.

Trains zfnet_small, and the same network with layers removed or resized, from scratch with equal
short budgets (section 5.1, table 3). Interrupted in any way, the same command goes on where it was.

examples:
  zfcuda ablate
  zfcuda ablate --epochs 8 --limit 55000 --seeds 3
  zfcuda ablate --variant conv5=0 --variant fc6=0,fc7=64

--variant says what to change, as LAYER=WIDTH with commas between: so many maps or units, 0 removes
the layer; conv1 to conv5, fc6, fc7. Without it the changes of the paper's table 3 are made.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.cli.terminal import resumable

if TYPE_CHECKING:
    from zfcuda.experiments.ablations import Variant
    from zfcuda.results.training import AblationResult

_MODEL = "zfnet_small"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--variant", action="append", metavar="LAYER=WIDTH,...", help="see below; may be repeated"
    )
    arguments.labelled_data(parser)
    arguments.number(parser, "--epochs", 4, "of each training")
    arguments.number(parser, "--seeds", 1, "trainings of each network, from --seed on")
    arguments.add(parser, *arguments.OUTPUT)
    parser.set_defaults(limit=12_000, out="zfcuda-ablate", load=lambda options: None)


def run(options: argparse.Namespace) -> None:
    if options.seeds < 1:
        raise ValueError(f"--seeds {options.seeds}: expected at least 1")
    one_result(options, "ablation", _look)


def _look(_network: None, options: argparse.Namespace) -> Finding:
    from zfcuda.cli.network import pick_device
    from zfcuda.experiments.ablations import TABLE_3

    variants = TABLE_3
    if options.variant:
        variants = (variants[0], *map(_variant, options.variant))
    folder = Path(options.out)
    data = inputs.training_split(options, _MODEL, folder.glob("*-seed*"))
    recipe = zfcuda.training.Recipe(epochs=options.epochs)
    seeds = range(options.seed, options.seed + options.seeds)
    how = {"device": pick_device(options.device), "progress": not options.quiet}
    with resumable():
        result = zfcuda.ablation(data, folder, variants, recipe, seeds, **how)
    figure = zfcuda.figures.ablation(result, f"{_MODEL} with layers removed or resized")
    lines = result.table().splitlines()
    return Finding("Ablations", _findings(result), result, figure, "paper table 3", lines=lines)


def _variant(text: str) -> Variant:
    from zfcuda.experiments.ablations import Variant

    widths = {}
    for part in text.split(","):
        name, equals, width = part.strip().partition("=")
        if not (name and equals and width.isdecimal()):
            raise ValueError(
                f"--variant {text!r}: expected LAYER=WIDTH with commas between, as conv3=0,fc6=256"
            )
        widths[name] = int(width)
    removed = tuple(name for name, width in widths.items() if width == 0)
    resized = {name: width for name, width in widths.items() if width}
    parts = [f"without {', '.join(removed)}"] if removed else []
    parts += [f"{name}: {width}" for name, width in resized.items()]
    return Variant("; ".join(parts), removed, resized)


def _findings(result: AblationResult) -> str:
    error, (low, high) = result.test_error.mean(1), (100 * result.interval[0]).tolist()
    changes = (
        f"{name}: {100 * float(own - error[0]):+.1f} points"
        for name, own in zip(result.variants[1:], error[1:], strict=True)
    )
    return (
        f"Test error {error[0]:.1%} ({result.interval_name}: {low:.1f} to {high:.1f}%) for the "
        f"network as it is; against it {', '.join(changes)}. Equal budgets: {result.budget}; far "
        "from converged, so that the table compares how fast these networks learn as well as what "
        "they can."
    )
