"""The images of --data for experiments that ask for no labels."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda._terminal import skipped

if TYPE_CHECKING:
    from zfcuda._network import Network
    from zfcuda.data.images import Files, Source
    from zfcuda.data.preprocessing import Preprocessing

PARTS = ("training", "validation", "test")
ALL = "all"


@dataclass(frozen=True)
class Images:
    """A source of images.

    Attributes:
        source: of network inputs.
        text: what they are, as "5,000 validation images of Fashion-MNIST".
    """

    source: Source
    text: str

    def report(self) -> None:
        """Say on standard error which files could not be read."""
        skipped(getattr(self.source, "skipped", []))


def source_options(parser: argparse.ArgumentParser, workers: str = "none") -> None:
    """--data, --limit, --part, --workers; ``workers`` says how many there are by default."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="folder of images, those in its folders included, or of IDX files as Fashion-MNIST's; "
        "'garments': the pictures that come with zfcuda (default: Fashion-MNIST on coloured "
        "backgrounds where Debian's package puts it, otherwise garments)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N images only")
    parser.add_argument(
        "--part",
        choices=(*PARTS, ALL),
        default="validation",
        help="of IDX files (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help=f"processes that read images ahead (default: {workers})",
    )


def images_of(options: argparse.Namespace, network: Network, seed: int = 0) -> Images:
    """The images that a command line means, as input of a network.

    Raises:
        ValueError: no such folder, no images in it, a --limit below 1, --workers below 0.
    """
    import torch

    from zfcuda.data.examples import Joined, Part
    from zfcuda.data.fashion import are_samples, garments
    from zfcuda.data.folder import split
    from zfcuda.data.idx import idx_folder
    from zfcuda.data.images import source_of

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: expected at least 1")
    workers = options.workers or 0
    if workers < 0:
        raise ValueError(f"--workers {workers}: expected 0 or more")
    preprocessing = network.preprocessing
    folder = None if options.data is None else Path(options.data)
    samples = are_samples(options.data)
    if folder is not None and not samples and idx_folder(folder) is None:
        files = _files(folder, preprocessing, options.limit, workers)
        return Images(files, f"{files.total:,} image files of {folder.name}")
    shipped = "images that come with zfcuda"
    try:
        if samples:
            examples, what = garments(preprocessing).pictures, shipped
        else:
            data = split(preprocessing, folder, seed=seed)
            every = options.part == ALL
            parts = [getattr(data, part) for part in PARTS] if every else []
            examples = Joined(parts) if every else getattr(data, options.part)
            what = f"{'' if every else f'{options.part} '}images ({data.kind})"
    except FileNotFoundError:
        if folder is not None or max(preprocessing.shape) > 64:
            raise
        examples, what = garments(preprocessing).pictures, shipped
    if options.limit is not None and options.limit < len(examples):
        examples = Part(examples, torch.arange(options.limit))
    return Images(source_of(examples, workers=workers), f"{len(examples):,} {what}")


def list_all(folder: Path) -> list[Path]:
    """The image files of a folder, then those of the folders in it, by name, each once; hidden ones
    are left out, as they are in data sets of classes."""
    from zfcuda.data.reading import left_out, list_images, tell_left_out

    paths, seen = list_images(folder), {folder.resolve()}
    others = left_out(folder)
    for inner in sorted(path for path in folder.rglob("*") if path.is_dir()):
        hidden = any(part.startswith(".") for part in inner.relative_to(folder).parts)
        if hidden or inner.resolve() in seen:  # a link to a folder that was counted
            continue
        seen.add(inner.resolve())
        paths += list_images(inner)
        others += left_out(inner)
    tell_left_out(others)
    return paths


def _files(folder: Path, preprocessing: Preprocessing, limit: int | None, workers: int) -> Files:
    from zfcuda.data.images import Files

    paths = list_all(folder)
    if not paths:
        raise ValueError(f"'{folder}' holds no image: expected a folder of images or IDX files")
    return Files(paths[:limit], preprocessing, workers=workers)
