"""--maps and --layer of experiments that look at many maps."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zfcuda._network import Network

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
