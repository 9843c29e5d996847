"""The images of --data for experiments that ask for no labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zfcuda.cli import arguments
from zfcuda.storage import terminal

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.data.images import Files, Source
    from zfcuda.data.preprocessing import Preprocessing
    from zfcuda.report.entries import Entry
    from zfcuda.report.writing import Provenance

    # network, its input, the image's name, stem of the files to write, provenance
    Job = Callable[[Network, Tensor, str, Path, Provenance], Entry | None]
    from matplotlib.figure import Figure

    from zfcuda.data.images import Numbered
    from zfcuda.experiments.over import Run


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
        terminal.skipped(getattr(self.source, "skipped", []))


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


_LONGEST = 200  # bytes of an input's name in an output's; file systems take 255


def each_image(options: argparse.Namespace, job: Job) -> None:
    """Run `job` on every --image and print what was written; all inputs are checked before."""
    from zfcuda import data
    from zfcuda.cli.network import Network
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
    from zfcuda.storage.files import text_table
    from zfcuda.storage.terminal import say

    rows = [(name, kind, "×".join(map(str, shape))) for name, kind, shape, _ in network.layers()]
    say(*text_table(rows, tablefmt="plain").splitlines())


TRUE = "true"
TARGET_HELP = f"; with --data also '{TRUE}': each image's own, by its folder or its label"


def run_options(parser: argparse.ArgumentParser) -> None:
    """--data, --limit, --part, --workers."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="every image of a folder, those in its folders included, or of IDX files as "
        f"Fashion-MNIST's; '{arguments.SAMPLES}': the pictures that come with zfcuda. What was "
        "begun is gone on with",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --data: the first N only")
    parser.add_argument(
        "--part",
        choices=PARTS,
        default="validation",
        help="with --data: of IDX files (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="with --data: processes that read images ahead (default: %(default)s)",
    )


def images_by_number(options: argparse.Namespace, network: Network) -> Numbered:
    """The images that --data means, as the network takes them.

    Raises:
        ValueError: no such folder, no images in it, a --limit or --workers out of range.
    """
    import torch

    from zfcuda.data.examples import Examples, Part
    from zfcuda.data.fashion import are_samples, garments
    from zfcuda.data.folder import split
    from zfcuda.data.idx import idx_folder
    from zfcuda.data.images import ImageFiles, numbered

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: expected at least 1")
    if options.workers < 0:
        raise ValueError(f"--workers {options.workers}: expected 0 or more")
    folder, preprocessing = Path(options.data), network.preprocessing
    if are_samples(options.data):
        examples: Examples = garments(preprocessing).pictures
    elif idx_folder(folder) is not None:
        examples = getattr(split(preprocessing, folder), options.part)
    else:
        return ImageFiles(_run_paths(folder)[: options.limit], folder, preprocessing)
    if options.limit is not None and options.limit < len(examples):
        examples = Part(examples, torch.arange(options.limit))
    return numbered(examples)


def _run_paths(folder: Path) -> list[Path]:
    paths = list_all(folder)
    if not paths:
        raise ValueError(f"'{folder}' holds no image: expected a folder of images or IDX files")
    return paths


def run_folder(options: argparse.Namespace) -> Path:
    """Where the run lies: a folder of --out called after data and command, that can be written."""
    from zfcuda.report.writing import writable_folder

    name = Path(options.data).resolve().name or "data"
    return writable_folder(Path(options.out) / f"{name}-{options.command}")


def about_run(options: argparse.Namespace, network: Network) -> dict[str, Any]:
    """What a run's JSON files say besides what results depend on."""
    names = {"class_names": list(network.own_names)} if network.own_names else {}
    about = {"command": options.command, "model": network.spec, "data": str(options.data)}
    return about | names


def true_labels(images: Numbered, network: Network) -> Tensor:
    """Each image's own class, int64 [N], as the network numbers it.

    Raises:
        ValueError: images without a class, or with one that the network does not know.
    """
    import torch

    from zfcuda.cli.labelled import labels_of

    if not images.class_names or bool((images.labels < 0).any()):
        raise ValueError(
            f"--target {TRUE}: nothing says what the images show; expected a folder for each class "
            "or IDX files"
        )
    if network.class_names is None or network.class_names == images.class_names:
        return images.labels
    return torch.tensor(labels_of(images.class_names, network))[images.labels]


def draw_run(
    run: Run,
    numbers: Sequence[int],
    figure_of: Callable[[Any, Tensor, str], Figure],
    pdf: bool = False,
) -> None:
    """Pictures of these images' results, beside them; those that are there stay.

    Args:
        figure_of: ``(result, x [1,C,H,W], name) -> figure``.
    """
    from zfcuda.data.images import tried
    from zfcuda.report.writing import save_pictures

    for number in numbers:
        stem = run.stem(number)
        wanted = ("png", "pdf") if pdf else ("png",)
        if all(stem.with_name(f"{stem.name}.{kind}").exists() for kind in wanted):
            continue
        x = tried(run.images, number)
        if isinstance(x, str):  # it has vanished since its result was made
            continue
        figure = figure_of(run.result(number), x[None], Path(run.images.names[number]).name)
        save_pictures(figure, stem, pdf)


def announce_run(
    run: Run, figure: Figure, skipped: Sequence[str], text: str, pdf: bool = False
) -> None:
    """Write the summary's picture and the page; print what there is of the run and `text`, what was
    found, and on standard error which images could not be read."""
    from zfcuda.report.writing import save_pictures

    pictures = save_pictures(figure, run.folder / "summary", pdf)
    numbers = [run.folder / f"summary.{kind}" for kind in ("npz", "json")]
    tables = sorted(run.folder.glob("*.csv"))
    terminal.say(*numbers, *tables, *pictures, *_run_page(run.folder), text)
    terminal.skipped(skipped)


def _run_page(folder: Path) -> list[Path]:
    """The gallery of a run's pictures, if Jinja2 is there."""
    from zfcuda.report.gallery import write_gallery

    try:
        return [write_gallery(folder)[0]]
    except ModuleNotFoundError as error:
        terminal.remark(f"no gallery: {error}")
        return []
