#!/usr/bin/env python3
"""Every experiment that looks at one image, for every image in a folder, with an index page.

    python scripts/folder_figures.py photos --layer features.3 --layer features.12 --out figures

Each image gets a folder of its own under --out, with a folder for each experiment. What is already
there, made from the same file with the same settings and weights, is skipped, so an interrupted run
can simply be started again. An experiment that fails does not stop the others; the end of the
output says which and why, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import zfcuda
from zfcuda import data, report
from zfcuda.cli import batch
from zfcuda.cli.network import Network
from zfcuda.cli.terminal import Parser, guarded
from zfcuda.experiments.invariance.experiment import early_and_late
from zfcuda.report.gallery import read_entry
from zfcuda.report.writing import writable_folder
from zfcuda.storage.terminal import say

_PROGRAM = "folder_figures.py"
EXPERIMENTS = ("predict", "deconv", "background", "occlude", "rotate", "invariance")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status: 0, 1 if something failed, 2 for a usage error."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    with guarded(_PROGRAM, options.traceback) as status:
        status[0] = _run(options)
    return status[0]


def _run(options: argparse.Namespace) -> int:
    images = data.list_images(options.folder)
    if not images:
        raise ValueError(f"folder '{options.folder}' holds no images")
    out = writable_folder(options.out)
    network = Network.of(options)
    _complete(options, network)
    jobs = [job for image in images for job in _jobs(options, image, out / image.name)]
    identity = f"{zfcuda.__version__} {network.weights_digest}"
    del network  # each command loads its own
    outcome = batch.run(jobs, identity, "figure", options.quiet)

    reasons: dict[Path, list[str]] = {}
    for job, reason in outcome.failed:
        reasons.setdefault(job.folder.parent, []).append(f"{job.command}: {reason}")
    index = report.write_index(
        out / "index.html",
        f"What {options.model} sees in {options.folder}",
        [_section(out / image.name, jobs, reasons.get(out / image.name, ())) for image in images],
        facts={"layers": options.layer, "weights_sha256": identity.split()[1]},
    )
    say(outcome)
    for folder, lines in reasons.items():
        say(*(f"failed: {folder.name}: {line}" for line in lines))
    say(f"open {index}")
    return 1 if outcome.failed else 0


def _complete(options: argparse.Namespace, network: Network) -> None:
    """Fill in what the network decides; raises where what was asked for cannot be."""
    shapes = {name: shape for name, _, shape, _ in network.layers()}
    for layer in options.layer or ():
        if layer not in shapes:
            raise ValueError(f"unknown layer {layer!r}: expected one of {', '.join(shapes)}")
    options.layer = options.layer or early_and_late(network.model, network.blank())
    # An occluder moves over maps; a vector has no strongest one.
    maps = [name for name, shape in shapes.items() if len(shape) == 4 and shape[2] * shape[3] > 1]
    (options.watched,) = ([n for n in options.layer if n in maps] or maps or [None])[-1:]
    network.fill(options.fill)


def _jobs(options: argparse.Namespace, image: Path, folder: Path) -> Iterable[batch.Job]:
    """The experiments on one image."""
    layer, fill = {"layer": options.layer}, {"fill": options.fill}
    occluder = {"layer": options.watched, "size": options.size, "stride": options.stride}
    settings = {
        "predict": {},
        "deconv": layer,
        "background": layer,
        "occlude": {name: value for name, value in occluder.items() if value} | fill,
        "rotate": layer | {"angles": options.angles} | fill,
        "invariance": layer | fill,
    }
    network = {"model": options.model, "device": options.device}
    network |= {"weights": options.weights} if options.weights else {}
    for experiment in options.experiments:
        own = network | {"image": [str(image)]} | settings[experiment]
        yield batch.Job(folder / experiment, experiment, own, (image,))


def _section(folder: Path, jobs: Iterable[batch.Job], reasons: Sequence[str]) -> report.Section:
    pictures = [
        picture
        for job in jobs
        if job.folder.parent == folder
        for picture in sorted(job.folder.glob("*.png"))
    ]
    entries = [read_entry(picture) for picture in pictures]
    return report.Section(folder.name, entries, problem=" ".join(reasons))


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = __doc__.partition("\n")
    parser = Parser(
        prog=_PROGRAM, description=summary, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument(
        "--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS, metavar="NAME",
        help=f"which of {', '.join(EXPERIMENTS)} (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="squeezenet1_1", metavar="SPEC", help="see zfcuda deconv --help"
    )
    parser.add_argument("--weights", metavar="FILE", help="weights for the model")
    parser.add_argument(
        "--layer", action="append", metavar="NAME",
        help="layer to explain; may be repeated (default: an early and a late one); the last "
        "that has maps is watched under occlusion",
    )  # fmt: skip
    parser.add_argument("--out", default="zfcuda-folder", metavar="DIR", help="output folder")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--size", type=int, help="occluder, pixels (default: as zfcuda occlude)")
    parser.add_argument("--stride", type=int, help="its steps, pixels (default: as zfcuda occlude)")
    parser.add_argument("--fill", default="grey", help="colour of the occluder and outside")
    parser.add_argument("--angles", default="0:360:5", help="START:STOP:STEP, degrees")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    return parser


if __name__ == "__main__":
    sys.exit(main())
