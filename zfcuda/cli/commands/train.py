"""`zfcuda train`: a ZF network by the paper's recipe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, one_result
from zfcuda.cli.terminal import resumable

if TYPE_CHECKING:
    from torch import nn

    from zfcuda.results.training import TrainingResult
    from zfcuda.training.recipe import Recipe

HELP = "train a ZF network by the paper's recipe"
DESCRIPTION = (
    "Trains zfnet_small or zfnet (section 3.1): SGD with momentum 0.9, batches of 128, learning "
    "rate 1e-2 lowered when the validation error stalls, at the latest in time for the end, "
    "dropout, filters kept within a radius, crops and flips. Writes a checkpoint an epoch; "
    "interrupted in any way, the same command goes on where it was and ends with the same weights. "
    "The test part is read once, at the end, and once more if a training that had ended goes on."
)
EXAMPLES = f"""examples:
  zfcuda train --minutes 90
  zfcuda train --plain --epochs 5 --out plain
  zfcuda train --data pictures --epochs 30 --out mine
  zfcuda predict --model mine/weights.safetensors --image cat.jpg

data: IDX files (default: Fashion-MNIST of Debian's package dataset-fashion-mnist), or a folder with
one folder of pictures per class, or the same in train, val and test{arguments.FASHION}"""

MODELS = ("zfnet_small", "zfnet")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The data, the recipe, the budget."""
    parser.add_argument(
        "--model", choices=MODELS, default=MODELS[0], help="what to train (default: %(default)s)"
    )
    parser.add_argument("--data", metavar="DIR", help="IDX files or folders of pictures; see below")
    arguments.number(parser, "--limit", None, "train on N pictures, drawn by --seed")
    arguments.plain(parser)
    arguments.number(parser, "--epochs", 70, "at most (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin no epoch that would end later than this"
    )
    parser.add_argument(
        "--rate", type=float, default=1e-2, metavar="R", help="learning rate (default: %(default)s)"
    )
    arguments.number(parser, "--batch", 128, "pictures a step (default: %(default)s)")
    arguments.number(
        parser,
        "--patience",
        5,
        "epochs without a lower validation error before the rate is lowered to a tenth; the "
        "third time training ends (default: %(default)s)",
    )
    arguments.number(parser, "--threads", None, "default: torch's own choice")
    arguments.seed(parser)
    arguments.output(parser, "zfcuda-train")
    parser.set_defaults(alone=True)  # what lies in its folder is of the same training


def run(options: argparse.Namespace) -> None:
    """Train, or go on; then write the curves."""
    one_result(options, "training", lambda _network: _look(options), lambda options: None)


def _look(options: argparse.Namespace) -> Finding:
    import torch

    from zfcuda.cli.network import pick_device

    recipe = zfcuda.training.Recipe(
        epochs=options.epochs,
        minutes=options.minutes,
        batch=options.batch,
        rate=options.rate,
        patience=options.patience,
        seed=options.seed,
    )
    if options.threads is not None:
        if options.threads < 1:
            raise ValueError(f"threads {options.threads}: expected at least 1")
        torch.set_num_threads(options.threads)
    folder = Path(options.out)
    data = inputs.training_split(options, options.model, [folder])
    model = _fresh(options.model, len(data.training.class_names), recipe)
    model = model.to(pick_device(options.device))
    with resumable():
        result = zfcuda.training.train(
            model, data, folder, recipe, options.model, not options.quiet
        )
    text = _findings(result)
    if data.skipped:
        text += f" Pictures that could not be read and were skipped: {len(data.skipped):,}."
    figure = zfcuda.figures.training_curves(result, title=f"{options.model} on {data.kind}")
    lines = [folder / "weights.safetensors"]
    return Finding("Training", text, result, figure, "talk, supplement", lines=lines)


def _findings(result: TrainingResult) -> str:
    low, high = (100 * result.test_interval).tolist()
    text = (
        f"Epoch {result.best} of {len(result.epoch)} has the lowest validation error and was "
        f"chosen; {result.test_accuracy:.2%} of the {int(result.confusion.sum()):,} test pictures, "
        f"{result.reading}, are right (95% interval {low:.1f} to {high:.1f}%)."
    )
    if len(result.test_read) > 1:
        text += (
            " Had the training gone on because of what an earlier reading said, this number would "
            "be too good."
        )
    return text


def _fresh(name: str, classes: int, recipe: Recipe) -> nn.Module:
    """A network with weights drawn from the recipe's seed."""
    from zfcuda import models
    from zfcuda.storage.identity import seeded

    with seeded(recipe.seed):
        # Pools that rectify in their own pass: the same numbers, faster.
        return (models.zfnet if name == "zfnet" else models.zfnet_small)(classes, fused=True)
