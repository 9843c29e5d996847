"""--data of the experiments that look at every image of a data set, and keep a result of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zfcuda import _terminal
from zfcuda.commands import _data, _options

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from zfcuda._network import Network
    from zfcuda.data.images import Numbered
    from zfcuda.experiments.over import Run

TRUE = "true"
TARGET_HELP = f"; with --data also '{TRUE}': each image's own, by its folder or its label"


def run_options(parser: argparse.ArgumentParser) -> None:
    """--data, --limit, --part, --workers."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="every image of a folder, those in its folders included, or of IDX files as "
        f"Fashion-MNIST's; '{_options.SAMPLES}': the pictures that come with zfcuda. What was "
        "begun is gone on with",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="with --data: the first N only")
    parser.add_argument(
        "--part",
        choices=_data.PARTS,
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
    paths = _data.list_all(folder)
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

    from zfcuda.commands._labelled import labels_of

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
    _terminal.say(*numbers, *tables, *pictures, *_run_page(run.folder), text)
    _terminal.skipped(skipped)


def _run_page(folder: Path) -> list[Path]:
    """The gallery of a run's pictures, if Jinja2 is there."""
    from zfcuda.report.gallery import write_gallery

    try:
        return [write_gallery(folder)[0]]
    except ModuleNotFoundError as error:
        _terminal.remark(f"no gallery: {error}")
        return []
