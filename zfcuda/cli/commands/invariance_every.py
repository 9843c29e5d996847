"""`zfcuda invariance --data`: every image of a data set moved, enlarged and turned."""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from zfcuda import figures
from zfcuda.cli import inputs
from zfcuda.cli.network import Network, pick_device
from zfcuda.cli.terminal import resumable
from zfcuda.data.images import Images
from zfcuda.experiments.invariance.over import InvarianceRun, invariance_run
from zfcuda.results.base import in_words
from zfcuda.storage.files import short_spec
from zfcuda.storage.ranks import from_environment


def run_over(options: argparse.Namespace) -> None:
    """Compute what is missing, then sum it up."""
    if options.image:
        raise ValueError("invariance takes --image or --data, not both")
    with from_environment(pick_device(options.device)):
        network = Network.of(options)
        images, _ = inputs.images_of(options, network)
        with (
            resumable(),
            invariance_run(
                network.model,
                images,
                inputs.run_folder(options),
                options.layer,
                _targets(options, images, network),
                fill=network.fill(options.fill),
                about=inputs.about_run(options, network),
                outputs=network.outputs,
            ) as work,
        ):
            work.carry_out(options.workers, not options.quiet)
            entry = _entry(work, options)
            summary = work.summary(entry)
            if summary is not None:
                what = f"{short_spec(network.spec)}, {len(summary.names):,} images"
                title = f"{options.data}: invariance, {what}"
                figure = figures.invariance_summary(summary, title=title)
                inputs.announce_run(work.run, figure, summary.skipped, entry["text"], options.pdf)


def _targets(options: argparse.Namespace, images: Images, network: Network) -> int | Tensor | None:
    if options.target is None:
        return None
    if len(options.target) != 1:
        raise ValueError(
            f"--target names {len(options.target)} classes: with --data expected one for all, or "
            f"'{inputs.TRUE}' for each image's own"
        )
    if options.target == [inputs.TRUE]:
        return inputs.true_labels(images, network)
    return network.label(options.target[0])


def _entry(work: InvarianceRun, options: argparse.Namespace) -> dict[str, Any]:
    values = work.outputs == "value"
    text = (
        f"Each of {len(work.run.images):,} images was moved, enlarged and turned. Lines are means "
        "over the images, bands one standard deviation to either side. Distances are Euclidean, "
        "between the features of the transformed and of the untransformed image, as shares of the "
        f"latter's norm; the last column is the {'value' if values else 'probability'} of "
        + (
            "the class asked for"
            if options.target
            else "the class predicted for the image as it is"
        )
        + ("." if values else ", and (dashed) the share of images whose answer stays.")
        + in_words(work.outputs)
    )
    return {
        "title": "Invariance over a data set",
        "text": text,
        "figure": "paper figure 5, talk figure 6",
        "files": ["images.csv", "curves.csv"],
    }
