"""A job for each image of a command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda._network import Network
    from zfcuda.report.entries import Entry
    from zfcuda.report.writing import Provenance

    # network, its input, the image's name, stem of the files to write, provenance
    Job = Callable[[Network, Tensor, str, Path, Provenance], Entry | None]

_LONGEST = 200  # bytes of an input's name in an output's; file systems take 255


def each_image(options: argparse.Namespace, job: Job) -> None:
    """Run `job` on every --image and print what was written; all inputs are checked before."""
    from zfcuda import data
    from zfcuda._network import Network
    from zfcuda.report.writing import Provenance, announce, place, writable_folder

    if getattr(options, "list_layers", False):
        list_layers(Network.of(options))
        return
    if not options.image:
        raise ValueError(f"{options.command} needs --image FILE")
    images = [data.read_image(path) for path in options.image]
    folder = writable_folder(options.out)
    network = Network.of(options)
    for path, stem, image in zip(
        options.image, stems(options.image, options.command), images, strict=True
    ):
        provenance = Provenance.of_image(options, network.facts(), path)
        name, where = Path(path).name, place(folder / stem, provenance)
        entry = job(network, network.input(image), name, where, provenance)
        announce(entry)


def stems(paths: Sequence[str], command: str) -> list[str]:
    """An output name for each input: its own, numbered where two inputs share one, and cut where
    it would leave no room for what is appended."""
    names: list[str] = []
    for path in paths:
        own = _cut(Path(path).stem)
        stem, number = f"{own}-{command}", 2
        while stem in names:
            stem, number = f"{own}-{number}-{command}", number + 1
        names.append(stem)
    return names


def _cut(name: str) -> str:
    """The beginning of a name that takes at most so many bytes in the file system."""
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    return name


def list_layers(network: Network) -> None:
    """Print the names, kinds and output shapes of the network's layers."""
    from zfcuda._terminal import say
    from zfcuda.storage.files import text_table

    rows = [(name, kind, "×".join(map(str, shape))) for name, kind, shape, _ in network.layers()]
    say(*text_table(rows, tablefmt="plain").splitlines())
