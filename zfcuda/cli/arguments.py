"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from zfcuda.cli.network import Network


_MOST = 16  # workers by default: beyond, the process that they feed is busy with being fed


def cores() -> int:
    """Cores for this process: those that it may run on, shared with the others that torchrun
    started on this machine."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def workers(wanted: int | None, device: torch.device) -> int:
    """Processes that read images, unless so many are ``wanted``: a quarter of the cores beside a
    network on the CPU, all but one for a network on a GPU."""
    if wanted is not None:
        return wanted
    return min(_MOST, cores() // 4 if device.type == "cpu" else cores() - 1)


@contextmanager
def cores_shared_with(workers: int, device: torch.device) -> Iterator[None]:
    """The network on the cores that its workers leave: threads that wait for each other wait for
    the one that shares its core. OMP_NUM_THREADS, where it is set, has the last word."""
    from zfcuda.inference.checks import threads

    on_cpu = workers and device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ
    with threads(max(1, cores() - workers)) if on_cpu else nullcontext():
        yield


_PAPERS = tuple(f"relu{number}" for number in range(1, 6))


def maps(parser: argparse.ArgumentParser, default: int) -> None:
    """--maps."""
    parser.add_argument(
        "--maps",
        type=chosen_maps,
        default=default,
        metavar="N|all|A,B,C",
        help="so many maps of each layer, evenly spread over those that respond, all of them, or "
        "these; one number with a comma behind it is a map (default: %(default)s)",
    )


def chosen_maps(text: str) -> int | str | list[int]:
    """A number of maps, "all", or channels."""
    if text == "all":
        return text
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected N, all or channels A,B,C")
    return numbers if "," in text else numbers[0]


def mapped_layers(options: argparse.Namespace, network: Network) -> list[str]:
    """The --layer options, or the five layers of a ZF network.

    Raises:
        ValueError: none were named, and the network has other layers.
    """
    if options.layer:
        return options.layer
    if {*_PAPERS} <= {name for name, _ in network.model.named_modules()}:
        return [*_PAPERS]
    raise ValueError(
        f"{options.command} needs --layer NAME for this network; --list-layers prints the names"
    )


_MODEL = (
    "squeezenet1_1, zfnet_small, zfnet, torchvision:NAME; a weights file (.safetensors, .pt, "
    ".pth), if need be with its architecture: squeezenet1_1:FILE; an .onnx file; or "
    "MODULE:FUNCTION, a function of your own that returns the model, whose code is then run. "
    "?size=64 and the like say what such a model expects of images, ?outputs=value that it answers "
    "with values of a regression, ?classes=FILE what its classes are called (default: %(default)s)"
)

SAMPLES = "garments"  # as --data: the pictures that come with zfcuda
FASHION = """

Fashion-MNIST's four files are at https://github.com/zalandoresearch/fashion-mnist, in data/fashion;
torchvision.datasets.FashionMNIST("DIR", download=True) fetches them, too; then --data DIR.
`--data garments` are 120 of its pictures, which come with zfcuda"""


def output(parser: argparse.ArgumentParser, folder: str = "zfcuda-out", pdf: bool = True) -> None:
    """--out (default: `folder`), --pdf where it can be had, --device, --quiet."""
    parser.add_argument(
        "--out", default=folder, metavar="DIR", help="folder (default: %(default)s)"
    )
    if pdf:
        parser.add_argument("--pdf", action="store_true", help="figures as PDF, too, for print")
    device(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda", help="where to compute (default: auto)"
    )


def model(parser: argparse.ArgumentParser, default: str = "squeezenet1_1") -> None:
    """--model, --weights, --classes: what `Network.of(options)` loads."""
    parser.add_argument("--model", default=default, metavar="SPEC", help=_MODEL)
    parser.add_argument("--weights", metavar="FILE", help="weights for the model, as in SPEC:FILE")
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="names of the model's classes, one a line in label order (default: those that its "
        "file tells, ImageNet's for a thousand outputs, CLASS_NAMES in the MODULE of a "
        "MODULE:FUNCTION)",
    )


def images(parser: argparse.ArgumentParser) -> None:
    """--image: what `zfcuda.cli.command.each_image` goes through."""
    parser.add_argument("--image", nargs="+", metavar="FILE", help="one or more image files")


def layers(
    parser: argparse.ArgumentParser, help: str = "one or more layers", several: bool = True
) -> None:
    """--layer (a list, or None; one name unless `several`) and --list-layers."""
    if several:
        flags = ("--layer", "--layers")
        parser.add_argument(*flags, action="extend", nargs="+", metavar="NAME", help=help)
    else:
        parser.add_argument("--layer", metavar="NAME", help=help)
    parser.add_argument(
        "--list-layers",
        action="store_true",
        help="print the model's layers with their output shapes",
    )


def target(parser: argparse.ArgumentParser, more: str = "") -> None:
    """--target, for `Network.label`; `more` says what else it may be."""
    text = f"class to watch (default: the most probable){more}"
    parser.add_argument("--target", metavar="LABEL|NAME", help=text)


def fill(parser: argparse.ArgumentParser, what: str) -> None:
    """--fill, for `Network.fill`: `what` has that colour."""
    text = f"{what}: grey, black, #ff8000, ..., or mean, the model's mean (default: %(default)s)"
    parser.add_argument("--fill", default="grey", metavar="COLOUR", help=text)


def number(
    parser: argparse.ArgumentParser, flag: str, default: int | None, help: str, metavar: str = "N"
) -> None:
    """An option that is a whole number."""
    parser.add_argument(flag, type=int, default=default, metavar=metavar, help=help)


def labelled_data(parser: argparse.ArgumentParser) -> None:
    """--data, a folder of images or of IDX files, and --limit."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of images (one folder a class, if labels are needed) or of IDX files, as "
        f"Fashion-MNIST's; '{SAMPLES}': the pictures that come with zfcuda",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use N of the images only")


def plain(parser: argparse.ArgumentParser) -> None:
    """--plain: of IDX files."""
    parser.add_argument(
        "--plain", action="store_true", help="IDX data on black instead of coloured backgrounds"
    )


def seed(parser: argparse.ArgumentParser) -> None:
    """--seed, of everything random in the command."""
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is random (default: 0)"
    )


# ------------------------------------------------------------------------------------ values


def position(text: str) -> str | tuple[int, int]:
    """ "max", or ROW,COLUMN as a pair."""
    if text == "max":
        return text
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected max or ROW,COLUMN") from None
    return row, column


def pair(text: str) -> int | tuple[int, int]:
    """N, or HEIGHTxWIDTH as a pair."""
    try:
        numbers = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) != 2:
        raise argparse.ArgumentTypeError(f"{text!r}: expected N or HEIGHTxWIDTH in pixels")
    return numbers[0], numbers[1]
