"""`zfcuda invariance`: move, enlarge and turn images, watch features and answers.

Moves, enlarges and turns several images (section 4.1, figure 5): how far the features of an early
and of a late layer move, and what becomes of the probability of each image's class. With --data
every image of a data set, each result in its own files, and the mean over them with its spread;
stopped at any moment, the same command goes on.

examples:
  zfcuda invariance --image cat.jpg cup.jpg dog.jpg
  zfcuda invariance --image cat.jpg cup.jpg --target "Egyptian cat" espresso
  zfcuda invariance --image cat.jpg --layer features.3 --layer features.12 --fill black
  zfcuda invariance --model zfnet_small --data garments --target true
  torchrun --nproc-per-node 4 -m zfcuda invariance --data imagenet/val --workers 2
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zfcuda
from zfcuda.cli import arguments, inputs
from zfcuda.cli.command import Finding, announce_run, data_set, one_result, run_settings, stems
from zfcuda.cli.terminal import resumable
from zfcuda.storage.files import digest, short_spec

if TYPE_CHECKING:
    from PIL.Image import Image

    from zfcuda.cli.network import Network
    from zfcuda.experiments.invariance.over import InvarianceRun
    from zfcuda.results.base import Outputs


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "image")
    arguments.data(parser, run=True)
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="LABEL|NAME",
        help="true class of each image, or one for all (default: the most probable); with --data "
        "one for all, or 'true': each image's own, by its folder or its label",
    )
    words = {
        "layer": "layers whose features are compared (default: an early and a late)",
        "fill": "outside the image",
    }
    arguments.add(parser, *arguments.LAYERS, "fill", *arguments.OUTPUT, **words)
    parser.set_defaults(workers=0)


def run(options: argparse.Namespace) -> None:
    if options.data is not None:
        _over_data(options)
        return
    if not options.image:
        raise ValueError("invariance needs --image FILE [FILE ...]")
    images = [zfcuda.data.read_image(path) for path in options.image]
    (name,) = stems(options.image[:1], options.command)
    one_result(options, name, lambda network, options: _study(network, options, images))


def _study(network: Network, options: argparse.Namespace, images: Sequence[Image]) -> Finding:
    import torch

    names = [Path(path).stem for path in options.image]
    digests = [digest(Path(path)) for path in options.image]
    x = torch.cat([network.input(image) for image in images])
    target = _targets(options.target, len(names), network)
    settings = {"fill": network.fill(options.fill), "progress": not options.quiet}
    settings["outputs"] = network.outputs
    result = zfcuda.invariance_study(network.model, x, options.layer, target, names, **settings)
    first = next(iter(result.experiments.values()))
    title = f"Invariance of {short_spec(network.spec)} to translation, scale and rotation"
    figure = zfcuda.figures.invariance_study(
        result, network.preprocessing, network.class_names, title
    )
    lines = (
        "Each image is moved, enlarged and turned. Lines are the images, numbered and coloured as "
        "along the top."
    )
    text = _text(lines, first.outputs, "the true class" if options.target else None)
    settings = {"images": options.image, "image_sha256": digests}
    return Finding("Invariance", text, result, figure, _TAG, settings=settings)


_TAG = "paper figure 5, talk figure 6"


def _text(lines: str, outputs: Outputs, target: str | None, more: str = "") -> str:
    from zfcuda.results.base import in_words

    return (
        f"{lines} Distances are Euclidean, between the features of the transformed and of the "
        "untransformed image, as shares of the latter's norm; the last column is the "
        f"{'value' if outputs == 'value' else 'probability'} of "
        f"{target or 'the class predicted for the image as it is'}{more}.{in_words(outputs)}"
    )


def _targets(texts: Sequence[str] | None, images: int, network: Network) -> list[int] | None:
    """Each image's class; None for what the model predicts."""
    if texts is None:
        return None
    if len(texts) not in (1, images):
        raise ValueError(f"--target names {len(texts)} classes: expected 1 or {images}")
    labels = [network.label(text) for text in texts]
    return labels * (images // len(labels))


# --- with --data ----------------------------------------------------------------------------------


def _over_data(options: argparse.Namespace) -> None:
    from zfcuda.experiments.invariance.over import invariance_run

    with data_set(options) as (network, images):
        target, *others = options.target or [None]
        if others:
            raise ValueError(
                f"--target names {1 + len(others)} classes: with --data expected one for all, or "
                f"'{inputs.TRUE}' for each image's own"
            )
        settings = run_settings(options, network, images, target)
        with (
            resumable(),
            invariance_run(network.model, images, layers=options.layer, **settings) as work,
        ):
            work.carry_out(options.workers, not options.quiet)
            entry = _entry(work, options)
            summary = work.summary(lambda _: entry)
            if summary is not None:
                what = f"{short_spec(network.spec)}, {len(summary.names):,} images"
                title = f"{options.data}: invariance, {what}"
                figure = zfcuda.figures.invariance_summary(summary, title=title)
                announce_run(work, figure, summary.skipped, entry["text"], options.pdf)


def _entry(work: InvarianceRun, options: argparse.Namespace) -> dict[str, Any]:
    lines = (
        f"Each of {len(work.images):,} images was moved, enlarged and turned. Lines are means "
        "over the images, bands one standard deviation to either side."
    )
    dashed = ", and (dashed) the share of images whose answer stays"
    outputs = work.study["outputs"]
    more = "" if outputs == "value" else dashed
    text = _text(lines, outputs, "the class asked for" if options.target else None, more)
    about = {"title": "Invariance over a data set", "text": text, "figure": _TAG}
    return {**about, "files": ["images.csv", "curves.csv"]}
