"""`zfcuda occlude`: move a square over the image, watch the answer.

Moves a square over the image (section 4.2): where it hides what matters, the probability of the
class falls, its label changes and the layer's strongest map falls silent. With --data every image
of a data set, each result in its own files, and what they come to; stopped at any moment, the same
command goes on.

examples:
  zfcuda occlude --image cat.jpg --layer features.12
  zfcuda occlude --image cat.jpg dog.jpg --target "Egyptian cat" --size 32 --stride 4
  zfcuda occlude --image cat.jpg --size 16 --stride 4 --plan
  zfcuda occlude --model torchvision:resnet18 --image cat.jpg --layer layer4 --fill black
  zfcuda occlude --model zfnet_small --data garments --size 16 --stride 4 --target true
  torchrun --nproc-per-node 4 -m zfcuda occlude --data imagenet/val --workers 2
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zfcuda
from zfcuda.cli import arguments, command, inputs
from zfcuda.cli.command import Finding, each_image, figure_title
from zfcuda.cli.terminal import resumable
from zfcuda.storage.files import class_name, short_spec, text_table
from zfcuda.storage.terminal import remark, say

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.experiments.occlusion.over import OcclusionRun
    from zfcuda.results.occlusion import OcclusionResult, OcclusionSummary


def add_options(parser: argparse.ArgumentParser) -> None:
    arguments.add(parser, *arguments.MODEL, "image", "list_layers")
    arguments.data(parser, run=True)
    parser.add_argument(
        "--pictures", action="store_true", help="with --data: a picture of every image's result"
    )
    parser.add_argument("--layer", metavar="NAME", help="layer whose strongest map is watched too")
    parser.add_argument(
        "--size",
        type=arguments.pair,
        metavar="N|HxW",
        help="occluder, pixels (default: 50 where the image's shorter side is 192 to 256, else "
        "50/224 of it)",
    )
    parser.add_argument(
        "--stride",
        type=arguments.pair,
        metavar="N|HxW",
        help="its steps, pixels (default: 8, or 8/224 of that side)",
    )
    parser.add_argument(
        "--method",
        choices=("auto", "cone", "dense"),
        default="auto",
        help="recompute what can change, run whole passes, or what is faster (default: auto)",
    )
    parser.add_argument(
        "--plan", action="store_true", help="print what would be computed, and stop"
    )
    words = {"target": inputs.TARGET_HELP, "fill": "colour of the occluder"}
    arguments.add(parser, "target", "fill", *arguments.OUTPUT, **words)
    parser.set_defaults(workers=0)


def run(options: argparse.Namespace) -> None:
    if options.data is not None:
        _over_data(options)
        return
    settings = {"size": options.size, "stride": options.stride, "method": options.method}
    layers = [options.layer] if options.layer else []
    planned: list[Network] = []

    def look(network: Network, x: Tensor, path: str) -> Finding | None:
        target = network.label(options.target)
        if not planned and (options.plan or not options.quiet):  # images have one size
            planned.append(network)
            plan = str(zfcuda.plan(network.model, x, layers=layers, **settings)).splitlines()
            if options.plan:
                say(*plan)
            else:
                remark(plan[0])
        if options.plan:
            return None
        more = {"fill": network.fill(options.fill), "target": target, "progress": not options.quiet}
        return occlude(network, x, Path(path).name, options.layer, **settings, **more)

    each_image(options, look)


def occlude(
    network: Network, x: Tensor, name: str, layer: str | None = None, **settings: Any
) -> Finding:
    """The occlusion row; `settings` go to `zfcuda.occlusion`."""
    from zfcuda.results.base import in_words

    layers = [layer] if layer else []
    result = zfcuda.occlusion(network.model, x, layers=layers, outputs=network.outputs, **settings)
    signals, more, channel = None, {}, None
    if layer:
        # The occlusion's own map, so that the row shows one map throughout.
        channel = int(result.layers[layer].channels[0])
        more["projection"] = zfcuda.projections(network.model, x, layers, channel=channel)
        signals = network.signals(more["projection"].projections)
    title = figure_title(network, name, "occlusion", layer, channel)
    figure = zfcuda.figures.occlusion_row(
        result, network.display(x), signals, network.class_names, title=title
    )
    text = _said(result, network) + in_words(result.outputs)
    return Finding("Occlusion", text, result, figure, "talk figure 5, paper figure 7", more)


def _said(result: OcclusionResult, network: Network) -> str:
    from zfcuda.results.base import called

    (height, width), (down, right) = result.size, result.stride
    target = int(result.target[0])
    classes = result.base_logits.shape[1]
    name = called(result.outputs, network.name(target, classes))
    base, values = result.base_probabilities[0, target], result.target_probability[0]
    found = [_against(name, base, values)]
    if classes > 1 and result.outputs != "value":
        changed = int((~result.unchanged[0]).sum())
        found.append(
            f"the most probable label changes at {changed:,} position{'s' * (changed > 1)}"
            if changed
            else "the most probable label stays"
        )
    for layer, sums in result.layers.items():
        name = f"the sum of the strongest map of {layer} ({int(sums.channels[0])})"
        found.append(_against(name, sums.base[0], sums.sums[0]))
    said = "; ".join(found)
    return (
        f"An occluder of {height}×{width} pixels is moved over the image in steps of "
        f"{down}×{right} ({result.grid[0]}×{result.grid[1]} positions): {said}."
    )


def _against(name: str, base: Tensor, values: Tensor) -> str:
    """A score without occluder, and its range with it, as far as it is a number."""
    known = values[values.isfinite()]
    if not len(known):
        return f"{name} is {float(base):.3g} without it and never a number with it"
    low, high = float(known.min()), float(known.max())
    with_it = f"{low:.3g} to {high:.3g}" if f"{low:.3g}" != f"{high:.3g}" else f"{low:.3g}"
    return f"{name} is {float(base):.3g} without it and {with_it} with it"


# --- with --data ----------------------------------------------------------------------------------


def _over_data(options: argparse.Namespace) -> None:
    from zfcuda.experiments.occlusion.engines import Request
    from zfcuda.experiments.occlusion.over import occlusion_run
    from zfcuda.experiments.over import first_readable

    how = {"size": options.size, "stride": options.stride, "method": options.method}
    how["layers"] = [options.layer] if options.layer else []
    with command.data_set(options) as (network, images):
        if options.plan:
            x = first_readable(images)[None].to(network.device)
            plan = zfcuda.plan(network.model, x, **how)
            say(*str(plan).splitlines())
            return
        settings = command.run_settings(options, network, images, options.target)
        how |= {name: settings.pop(name) for name in ("fill", "outputs")}
        settings["request"] = Request(score="probability", **how)
        with resumable(), occlusion_run(network.model, images, **settings) as work:
            _do(options, network, work)


def _do(options: argparse.Namespace, network: Network, work: OcclusionRun) -> None:
    def figure_of(result: OcclusionResult, x: Tensor, name: str) -> Figure:
        title = figure_title(network, name, "occlusion", options.layer)
        return zfcuda.figures.occlusion_row(
            result, network.display(x), None, network.class_names, title=title
        )

    if work.shard.first and not options.quiet:
        remark(str(work.engine.plan).partition("\n")[0])
    work.carry_out(options.workers, not options.quiet)
    if options.pictures:
        command.draw_run(work, work.shard.own(work.there()), figure_of, options.pdf)
    summary = work.summary(lambda found: _entry(work, found))
    if summary is None:  # another process has it
        return
    command.draw_run(work, summary.numbers[summary.shown].tolist(), figure_of, options.pdf)
    images = network.display(summary.images) if len(summary.images) else None
    title = f"{options.data}: occlusion, {short_spec(network.spec)}"
    figure = zfcuda.figures.occlusion_summary(summary, images, network.class_names, title)
    if not options.quiet:
        print(_table(summary, network.class_names), file=sys.stderr)
    text = _entry(work, summary)["text"]
    command.announce_run(work, figure, summary.skipped, text, options.pdf)


def _entry(work: OcclusionRun, summary: OcclusionSummary) -> dict[str, Any]:
    from zfcuda.results.base import in_words

    request = work.engine.request
    rows, columns = request.grid or (1, len(request.positions))
    (height, width), (down, right) = request.size, request.stride
    values = request.outputs == "value"
    text = (
        f"An occluder of {height}×{width} pixels was moved over each of {len(work.images):,} "
        f"images in steps of {down}×{right} ({rows}×{columns} positions). How much of the "
        f"{'value' if values else 'probability'} of its class an image loses, on average over the "
        "positions (a) and at most (b); and in how small a part of the image"
        + _extremes(summary)
        + in_words(request.outputs)
    )
    return {
        "title": "Occlusion of a data set",
        "text": text,
        "figure": "paper figure 7, talk figure 5",
        "files": ["images.csv", "classes.csv"],
    }


def _extremes(summary: OcclusionSummary) -> str:
    """What the ends of panel b are, and which panels show them: as many as there are."""
    if not summary.most:
        return " (no image loses enough for a look at where)."
    least = len(summary.shown) > summary.most
    return (
        ": those at the right of b lose it in few places (c), those at the left wherever the "
        "occluder is" + (" (d)." if least else ".")
    )


def _table(summary: OcclusionSummary, class_names: Sequence[str] | None) -> str:
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
