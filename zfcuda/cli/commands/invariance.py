"""`zfcuda invariance`: how far the answer survives moving, scaling and turning several images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda.cli import arguments, inputs
from zfcuda.storage.files import short_spec

if TYPE_CHECKING:
    from zfcuda.cli.network import Network

HELP = "move, enlarge and turn images, watch features and answers"
DESCRIPTION = (
    "Moves, enlarges and turns several images (section 4.1, figure 5): how far the features of an "
    "early and of a late layer move, and what becomes of the probability of each image's class. "
    "With --data every image of a data set, each result in its own files, and the mean over them "
    "with its spread; stopped at any moment, the same command goes on."
)
EXAMPLES = """examples:
  zfcuda invariance --image cat.jpg cup.jpg dog.jpg
  zfcuda invariance --image cat.jpg cup.jpg --target "Egyptian cat" espresso
  zfcuda invariance --image cat.jpg --layer features.3 --layer features.12 --fill black
  zfcuda invariance --model zfnet_small --data garments --target true
  torchrun --nproc-per-node 4 -m zfcuda invariance --data imagenet/val --workers 2"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The images, and what is watched."""
    arguments.model(parser)
    arguments.images(parser)
    inputs.data_options(parser, run=True)
    arguments.layers(parser, "layers whose features are compared (default: an early and a late)")
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="LABEL|NAME",
        help="true class of each image, or one for all (default: the most probable); with --data "
        "one for all, or 'true': each image's own, by its folder or its label",
    )
    parser.add_argument(
        "--fill",
        default="grey",
        metavar="COLOUR",
        help="outside the image: grey, black, #ff8000, ..., or mean, the model's mean "
        "(default: %(default)s)",
    )
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """One study of all images."""
    if options.list_layers:
        from zfcuda.cli.network import Network

        inputs.list_layers(Network.of(options))
    elif options.data is not None:
        from zfcuda.cli.commands import invariance_every

        invariance_every.run_over(options)
    elif options.image:
        _study(options)
    else:
        raise ValueError("invariance needs --image FILE [FILE ...]")


def _study(options: argparse.Namespace) -> None:
    import torch

    import zfcuda
    from zfcuda import data, figures
    from zfcuda.cli.network import Network
    from zfcuda.report.writing import Provenance, announce, place, writable_folder, write
    from zfcuda.results.base import in_words
    from zfcuda.storage.files import digest

    pictures = [data.read_image(path) for path in options.image]
    folder = writable_folder(options.out)
    network = Network.of(options)
    names = [Path(path).stem for path in options.image]
    digests = [digest(Path(path)) for path in options.image]
    provenance = Provenance.of(options, network.facts(), images=options.image, image_sha256=digests)
    result = zfcuda.invariance_study(
        network.model,
        torch.cat([network.input(picture) for picture in pictures]),
        options.layer,
        _targets(options.target, len(names), network),
        names,
        fill=network.fill(options.fill),
        progress=not options.quiet,
        outputs=network.outputs,
    )
    first = next(iter(result.experiments.values()))
    figure = figures.invariance_study(
        result,
        network.preprocessing,
        network.class_names,
        title=f"Invariance of {short_spec(network.spec)} to translation, scale and rotation",
    )
    text = (
        "Each image is moved, enlarged and turned. Lines are the images, numbered and coloured as "
        "along the top. Distances are Euclidean, between the features of the transformed and of "
        "the untransformed image, as shares of the latter's norm; the last column is the "
        + ("value" if first.outputs == "value" else "probability")
        + " of "
        + ("the true class." if options.target else "the class predicted for the image as it is.")
        + in_words(first.outputs)
    )
    stem = place(folder / inputs.stems(options.image[:1], options.command)[0], provenance)
    announce(
        write("Invariance", text, result, figure, stem, provenance, "paper figure 5, talk figure 6")
    )


def _targets(texts: Sequence[str] | None, images: int, network: Network) -> list[int] | None:
    """Each image's class; None for what the model predicts."""
    if texts is None:
        return None
    if len(texts) not in (1, images):
        raise ValueError(f"--target names {len(texts)} classes: expected 1 or {images}")
    labels = [network.label(text) for text in texts]
    return labels * (images // len(labels))
