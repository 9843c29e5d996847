"""`zfcuda occlude --data`: occlusion of every image of a data set."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from zfcuda import figures
from zfcuda.cli import inputs
from zfcuda.cli.network import Network, pick_device
from zfcuda.cli.terminal import resumable
from zfcuda.cones.planning import Plan
from zfcuda.data.images import Images
from zfcuda.experiments.occlusion.experiment import plan
from zfcuda.experiments.occlusion.over import OcclusionRun, occlusion_run
from zfcuda.experiments.over import first_readable
from zfcuda.results.base import in_words
from zfcuda.results.occlusion import OcclusionResult, OcclusionSummary
from zfcuda.storage.files import class_name, subject
from zfcuda.storage.ranks import from_environment
from zfcuda.storage.terminal import remark, say

_TITLE = "Occlusion of a data set"
_TAG = "paper figure 7, talk figure 5"


def run_over(options: argparse.Namespace) -> None:
    """Compute what is missing, then sum it up; or print how it would be done."""
    if options.image:
        raise ValueError("occlude takes --image or --data, not both")
    with from_environment(pick_device(options.device)):
        network = Network.of(options)
        images, _ = inputs.images_of(options, network)
        if options.plan:
            say(*str(_plan_over(options, network, images)).splitlines())
            return
        with resumable(), _begun(options, network, images) as work:
            _do(options, network, work)


def _do(options: argparse.Namespace, network: Network, work: OcclusionRun) -> None:
    if work.run.shard.first and not options.quiet:
        remark(str(work.prepared.plan).partition("\n")[0])
    work.carry_out(options.workers, not options.quiet)
    picture = _picture(network, options.layer)
    if options.pictures:
        there = work.run.there()
        inputs.draw_run(work.run, work.run.shard.own(there), picture, options.pdf)
    summary = work.summary(lambda found: _entry(work, found))
    if summary is not None:
        _conclude(options, network, work, summary, picture)


def _plan_over(options: argparse.Namespace, network: Network, images: Images) -> Plan:
    layers = [options.layer] if options.layer else []
    x = first_readable(images)[None].to(network.device)
    return plan(network.model, x, options.size, options.stride, layers, options.method)


def _begun(
    options: argparse.Namespace, network: Network, images: Images
) -> AbstractContextManager[OcclusionRun]:
    target: int | Tensor | None
    if options.target == inputs.TRUE:
        target = inputs.true_labels(images, network)
    else:
        target = network.label(options.target)
    return occlusion_run(
        network.model,
        images,
        inputs.run_folder(options),
        target,
        options.size,
        options.stride,
        network.fill(options.fill),
        [options.layer] if options.layer else [],
        options.method,
        about=inputs.about_run(options, network),
        outputs=network.outputs,
    )


def _picture(
    network: Network, layer: str | None
) -> Callable[[OcclusionResult, Tensor, str], Figure]:
    def figure_of(result: OcclusionResult, x: Tensor, name: str) -> Figure:
        return figures.occlusion_row(
            result,
            images=network.display(x),
            class_names=network.class_names,
            title=f"{name}: occlusion, {subject(network.spec, layer)}",
        )

    return figure_of


def _entry(work: OcclusionRun, summary: OcclusionSummary) -> dict[str, Any]:
    rows, columns = work.prepared.request.grid or (1, work.prepared.positions)
    (height, width), (down, right) = work.prepared.request.size, work.prepared.request.stride
    values = work.prepared.outputs == "value"
    text = (
        f"An occluder of {height}×{width} pixels was moved over each of {len(work.run.images):,} "
        f"images in steps of {down}×{right} ({rows}×{columns} positions). How much of the "
        f"{'value' if values else 'probability'} of its class an image loses, on average over the "
        "positions (a) and at most (b); and in how small a part of the image"
        + _extremes(summary)
        + in_words(work.prepared.outputs)
    )
    return {"title": _TITLE, "text": text, "figure": _TAG, "files": ["images.csv", "classes.csv"]}


def _extremes(summary: OcclusionSummary) -> str:
    """What the ends of panel b are, and which panels show them: as many as there are."""
    if not summary.most:
        return " (no image loses enough for a look at where)."
    least = len(summary.shown) > summary.most
    return (
        ": those at the right of b lose it in few places (c), those at the left wherever the "
        "occluder is" + (" (d)." if least else ".")
    )


def _conclude(
    options: argparse.Namespace,
    network: Network,
    work: OcclusionRun,
    summary: OcclusionSummary,
    picture: Callable[[OcclusionResult, Tensor, str], Figure],
) -> None:
    """Pictures and tables, on the first rank."""
    inputs.draw_run(work.run, summary.numbers[summary.shown].tolist(), picture, options.pdf)
    figure = figures.occlusion_summary(
        summary,
        images=network.display(summary.images) if len(summary.images) else None,
        class_names=network.class_names,
        title=f"{options.data}: occlusion, {subject(network.spec)}",
    )
    if not options.quiet:
        print(_table(summary, network.class_names), file=sys.stderr)
    inputs.announce_run(
        work.run, figure, summary.skipped, _entry(work, summary)["text"], options.pdf
    )


def _table(summary: OcclusionSummary, class_names: Sequence[str] | None) -> str:
    from zfcuda.storage.files import text_table

    names = summary.class_names if summary.labelled else class_names
    single = not summary.labelled and summary.outputs in ("logit", "probability")
    rows = [
        {
            "class": class_name(names, one.label, 1 if single else None) or "the output",
            "images": one.count,
            "mean drop": f"{one.mean:.4f}",
            "± images": f"{one.spread:.4f}",
            "largest drop": f"{one.largest:.3f}",
            "label changes": "–" if math.isnan(one.changed) else f"{one.changed:.1%}",
            "localisation": f"{one.localisation:.1%}",
        }
        for one in summary.classes
    ]
    return text_table(rows)
