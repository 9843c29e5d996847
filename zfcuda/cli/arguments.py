"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

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


SAMPLES = "garments"  # as --data: the pictures that come with zfcuda
PARTS = ("training", "validation", "test")
ALL = "all"
MODEL = ("model", "weights", "classes")  # what `Network.of(options)` loads
LAYERS = ("layer", "list_layers")
OUTPUT = ("out", "pdf", "device", "quiet")


def add(parser: argparse.ArgumentParser, *names: str, **words: str) -> None:
    """Add options that several commands have; `words` are the command's own in their help."""
    for name in names:
        flags = ["--layer", "--layers"] if name == "layer" else [f"--{name.replace('_', '-')}"]
        text, settings = _SHARED[name]
        parser.add_argument(*flags, help=text.format(words.get(name, "")), **settings)


def number(
    parser: argparse.ArgumentParser, flag: str, default: float, help: str, metavar: str = "N"
) -> None:
    """An option that is a number of the default's kind."""
    text = f"{help} (default: %(default)s)"
    parser.add_argument(flag, type=type(default), default=default, metavar=metavar, help=text)


def data(parser: argparse.ArgumentParser, run: bool = False, workers: str = "none") -> None:
    """--data, which may be left out if it names every image of a `run`, --limit, --part, --workers;
    `workers` says how many there are by default."""
    given = "with --data: " if run else ""
    default = "Fashion-MNIST on coloured backgrounds where Debian's package puts it, otherwise"
    more = ". What was begun is gone on with" if run else f" (default: {default} {SAMPLES})"
    add(parser, "data", "limit", data=more, limit=f"{given}the first N images")
    add(parser, "part", "workers", part=given, workers=workers)


def labelled_data(parser: argparse.ArgumentParser, of: str = "the training images") -> None:
    """--data, --limit, --plain and --seed, and what data that may be."""
    add(parser, "data", "limit", "plain", "seed", limit=f"N of {of}, drawn by --seed")
    parser.epilog = f"{parser.epilog}{_LABELLED}"


_LABELLED = """

data: IDX files (default: Fashion-MNIST of Debian's package dataset-fashion-mnist), or a folder with
one folder of pictures per class, or the same in train, val and test.
Fashion-MNIST's four files are at https://github.com/zalandoresearch/fashion-mnist, in data/fashion;
torchvision.datasets.FashionMNIST("DIR", download=True) fetches them, too; then --data DIR.
`--data garments` are 120 of its pictures, which come with zfcuda"""


def integers(text: str, count: int, expected: str, separator: str = ",") -> tuple[int, ...]:
    """So many whole numbers."""
    try:
        found = tuple(int(part) for part in text.split(separator))
    except ValueError:
        found = ()
    if len(found) != count:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {expected}")
    return found


def position(text: str) -> str | tuple[int, ...]:
    """ "max", or ROW,COLUMN as a pair."""
    return text if text == "max" else integers(text, 2, "max or ROW,COLUMN")


def pair(text: str) -> int | tuple[int, ...]:
    """N, or HEIGHTxWIDTH as a pair."""
    if text.isdecimal():
        return int(text)
    return integers(text.lower(), 2, "N or HEIGHTxWIDTH in pixels", "x")


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
    """The --layer options, or the five layers of a ZF network."""
    if options.layer:
        return options.layer
    papers = [f"relu{number}" for number in range(1, 6)]
    if {*papers} <= {name for name, _ in network.model.named_modules()}:
        return papers
    raise ValueError(
        f"{options.command} needs --layer NAME for this network; --list-layers prints the names"
    )


# --- the options that several commands have: help, and what else argparse is told ---

_SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "model": (
        "squeezenet1_1, zfnet_small, zfnet, torchvision:NAME; a weights file (.safetensors, .pt, "
        ".pth), if need be with its architecture: squeezenet1_1:FILE; an .onnx file; or "
        "MODULE:FUNCTION, a function of your own that returns the model, whose code is then run. "
        "?size=64 and the like say what such a model expects of images, ?outputs=value that it "
        "answers with values of a regression, ?classes=FILE what its classes are called (default: "
        "%(default)s)",
        {"default": "squeezenet1_1", "metavar": "SPEC"},
    ),
    "weights": ("weights for the model, as in SPEC:FILE", {"metavar": "FILE"}),
    "classes": (
        "names of the model's classes, one a line in label order (default: those that its file "
        "tells, ImageNet's for a thousand outputs, CLASS_NAMES in the MODULE of a MODULE:FUNCTION)",
        {"metavar": "FILE"},
    ),
    "image": ("one or more image files", {"nargs": "+", "metavar": "FILE"}),
    "data": (
        "folder of images, those in its folders included (one folder a class, if labels are "
        "needed), or of IDX files as Fashion-MNIST's; "
        f"'{SAMPLES}': the pictures that come with zfcuda{{}}",
        {"metavar": "DIR"},
    ),
    "limit": ("use only {}", {"type": int, "metavar": "N"}),
    "part": (
        "{}of IDX files (default: %(default)s)",
        {"choices": (*PARTS, ALL), "default": "validation"},
    ),
    "plain": ("IDX data on black instead of coloured backgrounds", {"action": "store_true"}),
    "workers": ("processes that read images ahead (default: {})", {"type": int, "metavar": "N"}),
    "layer": ("{}", {"action": "extend", "nargs": "+", "metavar": "NAME"}),
    "list_layers": ("print the model's layers with their output shapes", {"action": "store_true"}),
    "maps": (
        "so many maps of each layer, evenly spread over those that respond, all of them, or these; "
        "one number with a comma behind it is a map (default: %(default)s)",
        {"type": chosen_maps, "metavar": "N|all|A,B,C"},
    ),
    "target": ("class to watch (default: the most probable){}", {"metavar": "LABEL|NAME"}),
    "fill": (
        "{}: grey, black, #ff8000, ..., or mean, the model's mean (default: %(default)s)",
        {"default": "grey", "metavar": "COLOUR"},
    ),
    "seed": ("of all that is random (default: 0)", {"type": int, "default": 0, "metavar": "N"}),
    "out": ("folder (default: %(default)s)", {"default": "zfcuda-out", "metavar": "DIR"}),
    "pdf": ("figures as PDF, too, for print", {"action": "store_true"}),
    "device": ("where to compute (default: auto)", {"default": "auto", "metavar": "auto|cpu|cuda"}),
    "quiet": ("no progress bars", {"action": "store_true"}),
}
