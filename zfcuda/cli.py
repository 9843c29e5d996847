"""The command line: `zfcuda info`, `demo`, `deconv`, `occlude`, `rotate`.

Whatever the user can get wrong ends as one line on standard error and exit status 2; Ctrl-C ends as
one line and 130.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zfcuda._terminal import Parser, guarded

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda._jobs import Network
    from zfcuda.report import Entry

_MODEL_HELP = (
    "squeezenet1_1, zfnet, torchvision:NAME, or a weights file (.safetensors, .pt, .pth), if need "
    "be with its architecture: squeezenet1_1:FILE (default: %(default)s)"
)
_DESCRIPTIONS = {
    "info": "Prints versions, devices, and how this zfcuda was built, with the reason about CUDA.",
    "demo": "Explains two photographs with a trained SqueezeNet: predictions, projections with and "
    "without the background, occlusion, rotation. Writes figures, their numbers and index.html.",
    "deconv": "Projects units of a layer back to the image with a deconvnet (Zeiler & Fergus 2014, "
    "section 2.1): what in the image made them respond.",
    "occlude": "Moves a square over the image (section 4.2): where it hides what matters, the "
    "probability of the class falls, its label changes and the layer's strongest map falls silent.",
    "rotate": "Turns the image about its centre (section 4.1): the probability of the class, the "
    "predicted label and the layers' features against the angle.",
}
_EXAMPLES = {
    "deconv": """examples:
  zfcuda deconv --list-layers
  zfcuda deconv --image cat.jpg --layer features.3 --layer features.12
  zfcuda deconv --image cat.jpg --layer features.6 --channel 12 -k 5 --out projections""",
    "occlude": """examples:
  zfcuda occlude --image cat.jpg --layer features.12
  zfcuda occlude --image cat.jpg dog.jpg --target "Egyptian cat" --size 32 --stride 4
  zfcuda occlude --image cat.jpg --size 16 --stride 4 --plan
  zfcuda occlude --model torchvision:resnet18 --image cat.jpg --layer layer4 --fill black""",
    "rotate": """examples:
  zfcuda rotate --image cat.jpg --layer features.3 --layer features.12
  zfcuda rotate --image cat.jpg --angles=-45:45:1
  zfcuda rotate --image cat.jpg --angles 0,90,180,270 --target 285""",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, --version, or an error already reported
        return int(end.code or 0)
    with guarded("zfcuda", options.traceback) as status:
        options.run(options)
    return status[0]


# ----------------------------------------------------------------------------------- commands


def _info(_options: argparse.Namespace) -> None:
    from zfcuda import info

    print(info.collect())


def _demo(options: argparse.Namespace) -> None:
    from zfcuda import demo

    index = demo.run(options.out, options.device, progress=not options.quiet)
    print(f"open {index}")


def _deconv(options: argparse.Namespace) -> None:
    from zfcuda import _jobs

    settings = {
        "channel": options.channel,
        "position": options.position,
        "k": options.k,
        "rule": options.rule,
        "overlap": options.overlap,
    }
    if not options.layer and not options.list_layers:
        raise ValueError("deconv needs --layer NAME; --list-layers prints the names")
    _each_image(
        options,
        lambda network, x, name, stem: _jobs.project(
            network, x, name, stem, options.layer, not options.quiet, **settings
        ),
    )


def _occlude(options: argparse.Namespace) -> None:
    import zfcuda
    from zfcuda import _jobs

    settings = {"size": options.size, "stride": options.stride, "method": options.method}
    layers = [options.layer] if options.layer else []
    planned: list[Network] = []

    def job(network: Network, x: Tensor, name: str, stem: Path) -> Entry | None:
        if not planned and (options.plan or not options.quiet):  # images have one size
            planned.append(network)
            plan = zfcuda.plan(network.model, x, layers=layers, **settings)
            print(plan, file=sys.stdout if options.plan else sys.stderr)
        if options.plan:
            return None
        return _jobs.occlude(
            network,
            x,
            name,
            stem,
            options.layer,
            not options.quiet,
            **settings,
            fill=network.fill(options.fill),
            target=network.label(options.target),
        )

    _each_image(options, job)


def _rotate(options: argparse.Namespace) -> None:
    from zfcuda import _jobs

    angles = _jobs.angles(options.angles)

    def job(network: Network, x: Tensor, name: str, stem: Path) -> Entry:
        return _jobs.rotate(
            network,
            x,
            name,
            stem,
            angles,
            options.layer or [],
            not options.quiet,
            fill=network.fill(options.fill),
            target=network.label(options.target),
        )

    _each_image(options, job)


def _each_image(options: argparse.Namespace, job: Any) -> None:
    """Run `job` on every image and print what was written; all inputs are checked before."""
    from zfcuda import _jobs, data

    if options.list_layers:
        _list_layers(_jobs.Network.load(options.model, options.device))
        return
    if not options.image:
        raise ValueError(f"{options.command} needs --image FILE")
    images = [data.read_image(path) for path in options.image]
    folder = _jobs.writable_folder(options.out)
    network = _jobs.Network.load(options.model, options.device)
    stems = _stems(options.image, options.command)
    for path, stem, image in zip(options.image, stems, images, strict=True):
        entry = job(network, network.input(image), Path(path).name, folder / stem)
        for written in (entry.figure, *entry.numbers) if entry else ():
            print(written)


def _stems(paths: Sequence[str], command: str) -> list[str]:
    """An output name for each input: its own, numbered where two inputs share one."""
    stems: list[str] = []
    for path in paths:
        stem, number = f"{Path(path).stem}-{command}", 2
        while stem in stems:
            stem, number = f"{Path(path).stem}-{number}-{command}", number + 1
        stems.append(stem)
    return stems


def _list_layers(network: Network) -> None:
    from tabulate import tabulate

    rows = [(name, kind, "×".join(map(str, shape))) for name, kind, shape in network.layers()]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True))


# ------------------------------------------------------------------------------------ values


def _position(text: str) -> str | tuple[int, int]:
    if text == "max":
        return text
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected max or ROW,COLUMN") from None
    return row, column


def _pair(text: str) -> int | tuple[int, int]:
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected N or HEIGHTxWIDTH in pixels")
    return numbers[0], numbers[1]


# ------------------------------------------------------------------------------------ parser


def _parser() -> argparse.ArgumentParser:
    from zfcuda import __version__

    parser = Parser(
        prog="zfcuda",
        description="Shows what a CNN sees: projections, occlusion maps, rotation curves.",
        epilog="`zfcuda COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"zfcuda {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _command(commands, "info", _info, "print versions, devices and how this zfcuda was built")

    demo = _command(commands, "demo", _demo, "explain two photographs with a trained SqueezeNet")
    _output_options(demo, "zfcuda-demo")

    deconv = _command(commands, "deconv", _deconv, "project a layer's units back to the image")
    _image_options(deconv)
    deconv.add_argument("--layer", action="append", metavar="NAME", help="layer; may be repeated")
    deconv.add_argument("--channel", type=int, help="feature map (default: the strongest)")
    deconv.add_argument(
        "--position",
        type=_position,
        default="max",
        metavar="max|ROW,COLUMN",
        help="unit of the map (default: its largest activation)",
    )
    deconv.add_argument(
        "-k", type=int, default=1, metavar="K", help="project the K strongest units (default: 1)"
    )
    deconv.add_argument(
        "--rule",
        choices=("deconv", "gradient"),
        default="deconv",
        help="how signals pass a ReLU (default: %(default)s)",
    )
    deconv.add_argument(
        "--overlap",
        choices=("sum", "overwrite"),
        default="sum",
        help="what overlapping pooling windows do on the way down (default: %(default)s)",
    )

    occlude = _command(
        commands, "occlude", _occlude, "move a square over the image, watch the answer"
    )
    _image_options(occlude)
    occlude.add_argument("--layer", metavar="NAME", help="layer whose strongest map is watched too")
    occlude.add_argument(
        "--size", type=_pair, default=50, metavar="N|HxW", help="occluder, pixels (default: 50)"
    )
    occlude.add_argument(
        "--stride", type=_pair, default=8, metavar="N|HxW", help="its steps, pixels (default: 8)"
    )
    occlude.add_argument(
        "--method",
        choices=("auto", "cone", "dense"),
        default="auto",
        help="recompute what can change, run whole passes, or what is faster (default: auto)",
    )
    occlude.add_argument(
        "--plan", action="store_true", help="print what would be computed, and stop"
    )
    _score_options(occlude, "colour of the occluder")

    rotate = _command(commands, "rotate", _rotate, "turn the image, watch the answer")
    _image_options(rotate)
    rotate.add_argument(
        "--layer",
        action="append",
        metavar="NAME",
        help="layer whose features are compared with the upright image's; may be repeated",
    )
    rotate.add_argument(
        "--angles",
        default="0:360:5",
        metavar="START:STOP:STEP|A,B,C",
        help="degrees, counter-clockwise (default: %(default)s)",
    )
    _score_options(rotate, "colour outside the image")
    return parser


def _command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=textwrap.fill(_DESCRIPTIONS[name], 78),
        epilog=_EXAMPLES.get(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="on an error, show where in the program it arose"
    )
    parser.set_defaults(run=run)
    return parser


def _output_options(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "--out", default=folder, metavar="DIR", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda", help="where to compute (default: auto)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="squeezenet1_1", metavar="SPEC", help=_MODEL_HELP)
    parser.add_argument("--image", nargs="+", metavar="FILE", help="one or more image files")
    parser.add_argument(
        "--list-layers",
        action="store_true",
        help="print the model's layers with their output shapes",
    )
    _output_options(parser, "zfcuda-out")


def _score_options(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--target", metavar="LABEL|NAME", help="class to watch (default: the most probable)"
    )
    parser.add_argument(
        "--fill",
        default="grey",
        metavar="COLOUR",
        help=f"{what}: grey, black, #ff8000, ..., or mean, the model's mean (default: %(default)s)",
    )
