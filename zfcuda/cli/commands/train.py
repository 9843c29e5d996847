"""`zfcuda train`: train a ZF network by the paper's recipe.

Trains zfnet_small or zfnet (section 3.1): SGD with momentum 0.9, batches of 128, learning rate 1e-2
lowered when the validation error stalls, at the latest in time for the end, dropout, filters kept
within a radius, crops and flips. Writes a checkpoint an epoch; interrupted in any way, the same
command goes on where it was and ends with the same weights. The test part is read once, at the end,
and once more if a training that had ended goes on.

examples:
  zfcuda train --minutes 90
  zfcuda train --plain --epochs 5 --out plain
  zfcuda train --data pictures --epochs 30 --out mine
  zfcuda predict --model mine/weights.safetensors --image cat.jpg
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
    from torch import nn

    from zfcuda.results.training import TrainingResult
    from zfcuda.training.recipe import Recipe

MODELS = ("zfnet_small", "zfnet")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", choices=MODELS, default=MODELS[0], help="what to train (default: %(default)s)"
    )
    arguments.labelled_data(parser)
    arguments.number(parser, "--epochs", 70, "at most")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin no epoch that would end later than this"
    )
    arguments.number(parser, "--rate", 1e-2, "learning rate", "R")
    arguments.number(parser, "--batch", 128, "pictures a step")
    words = "epochs without a lower validation error before the rate is lowered to a tenth; the "
    arguments.number(parser, "--patience", 5, f"{words}third time training ends")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's own choice")
    arguments.add(parser, *arguments.OUTPUT)
    # What lies in its folder is of the same training.
    parser.set_defaults(out="zfcuda-train", alone=True, load=lambda options: None)


def run(options: argparse.Namespace) -> None:
    one_result(options, "training", _look)


def _look(_network: None, options: argparse.Namespace) -> Finding:
    import torch

    from zfcuda.cli.network import pick_device

    names = ("epochs", "minutes", "batch", "rate", "patience", "seed")
    recipe = zfcuda.training.Recipe(**{name: getattr(options, name) for name in names})
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
    from zfcuda import models
    from zfcuda.storage.identity import seeded

    with seeded(recipe.seed):
        # Pools that rectify in their own pass: the same numbers, faster.
        return (models.zfnet if name == "zfnet" else models.zfnet_small)(classes, fused=True)
