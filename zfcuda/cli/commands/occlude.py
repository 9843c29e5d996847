"""`zfcuda occlude`: which part of the image carries the decision."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda.cli import arguments, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.report.entries import Entry
    from zfcuda.report.writing import Provenance

HELP = "move a square over the image, watch the answer"
DESCRIPTION = (
    "Moves a square over the image (section 4.2): where it hides what matters, the "
    "probability of the class falls, its label changes and the layer's strongest map falls silent. "
    "With --data every image of a data set, each result in its own files, and what they come to; "
    "stopped at any moment, the same command goes on."
)
EXAMPLES = """examples:
  zfcuda occlude --image cat.jpg --layer features.12
  zfcuda occlude --image cat.jpg dog.jpg --target "Egyptian cat" --size 32 --stride 4
  zfcuda occlude --image cat.jpg --size 16 --stride 4 --plan
  zfcuda occlude --model torchvision:resnet18 --image cat.jpg --layer layer4 --fill black
  zfcuda occlude --model zfnet_small --data garments --size 16 --stride 4 --target true
  torchrun --nproc-per-node 4 -m zfcuda occlude --data imagenet/val --workers 2"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The occluder, and what is watched."""
    arguments.model(parser)
    arguments.images(parser)
    inputs.data_options(parser, run=True)
    parser.add_argument(
        "--pictures", action="store_true", help="with --data: a picture of every image's result"
    )
    arguments.layers(parser, "layer whose strongest map is watched too", several=False)
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
    arguments.score(parser, "colour of the occluder", inputs.TARGET_HELP)
    arguments.output(parser)


def run(options: argparse.Namespace) -> None:
    """Occlude every image, or print how it would be done."""
    if options.data is not None and not options.list_layers:
        from zfcuda.cli.commands import occlude_every

        occlude_every.run_over(options)
        return
    import zfcuda
    from zfcuda.cli import jobs
    from zfcuda.storage.terminal import remark, say

    settings = {"size": options.size, "stride": options.stride, "method": options.method}
    layers = [options.layer] if options.layer else []
    planned: list[Network] = []

    def job(
        network: Network, x: Tensor, name: str, stem: Path, provenance: Provenance
    ) -> Entry | None:
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
        return jobs.occlude(
            network,
            x,
            name,
            stem,
            options.layer,
            not options.quiet,
            provenance,
            **settings,
            fill=network.fill(options.fill),
            target=target,
        )

    inputs.each_image(options, job)
