"""The images that --data means, with labels or without."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zfcuda.cli import arguments
from zfcuda.storage import terminal

if TYPE_CHECKING:
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.data.examples import Examples, Split
    from zfcuda.data.images import Images
    from zfcuda.data.preprocessing import Preprocessing


_SHIPPED_SIDE = 64  # pixels a side of the pictures that come with zfcuda


def images_of(options: argparse.Namespace, network: Network) -> tuple[Images, str]:
    """The images that --data means, as the network takes them, and what they are, as "5,000
    validation images (Fashion-MNIST)"."""
    import torch

    from zfcuda.data.examples import Part
    from zfcuda.data.fashion import are_samples
    from zfcuda.data.folder import split
    from zfcuda.data.images import ImageFiles, numbered
    from zfcuda.data.reading import idx_folder

    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: expected at least 1")
    workers = options.workers or 0
    if workers < 0:
        raise ValueError(f"--workers {workers}: expected 0 or more")
    folder = None if options.data is None else Path(options.data)
    preprocessing = network.preprocessing
    if folder is not None and not are_samples(options.data) and idx_folder(folder) is None:
        paths = list_all(folder)
        if not paths:
            raise ValueError(f"'{folder}' holds no image: expected a folder of images or IDX files")
        files = ImageFiles(paths[: options.limit], preprocessing, folder, workers=workers)
        return files, f"{len(files):,} image files of {folder.name}"
    examples, kind = _part_of(options, preprocessing, lambda: split(preprocessing, folder))
    if options.limit is not None and options.limit < len(examples):
        examples = Part(examples, torch.arange(options.limit))
    part = "" if options.part == arguments.ALL else f"{options.part} "
    what = f"{part}images ({kind})" if kind else "images that come with zfcuda"
    return numbered(examples, workers=workers), f"{len(examples):,} {what}"


def _part_of(
    options: argparse.Namespace, preprocessing: Preprocessing, read: Callable[[], Split]
) -> tuple[Examples, str]:
    """The --part of the data set that `read` gives, and the kind of that; the pictures that come
    with zfcuda, and "", where --data names these, or nothing and Fashion-MNIST is not installed."""
    from zfcuda.data.examples import Joined
    from zfcuda.data.fashion import are_samples, garments

    if not are_samples(options.data):
        try:
            data = read()
        except FileNotFoundError:
            if options.data is not None or max(preprocessing.shape) > _SHIPPED_SIDE:
                raise
        else:
            parts = arguments.PARTS if options.part == arguments.ALL else (options.part,)
            found = [getattr(data, part) for part in parts]
            return Joined(found) if len(found) > 1 else found[0], data.kind
    return garments(preprocessing).pictures, ""


def labelled_split(options: argparse.Namespace, network: Network) -> Split:
    """The data set that --data means, as the network takes it, in three parts by --seed; of a
    network that zfcuda 0.1.0 trained, those of its training."""
    from zfcuda.data.folder import split

    data = split(
        network.preprocessing, options.data, not options.plain, options.seed, _by_class(network)
    )
    terminal.skipped(data.skipped)
    return data


def training_split(options: argparse.Namespace, spec: str, folders: Iterable[Path]) -> Split:
    """The same for networks that are trained in ``folders``, of --limit training pictures."""
    from zfcuda.data.examples import drawn
    from zfcuda.data.folder import split
    from zfcuda.models import preprocessing
    from zfcuda.training import draws_by_class

    by_class = all(map(draws_by_class, folders))
    expects = preprocessing(f"{spec}?weights=none")
    data = split(expects, options.data, not options.plain, options.seed, by_class)
    terminal.skipped(data.skipped)
    return replace(data, training=drawn(data.training, options.limit, options.seed))


def _by_class(network: Network) -> bool:
    """Whether a folder's missing parts were drawn class by class when the network was trained."""
    from zfcuda.models.specs import parse
    from zfcuda.training.checkpoints import draws_by_class

    try:
        weights = parse(network.spec).file
    except ValueError:  # a script's own way to name a model
        return True
    return weights is None or draws_by_class(weights.parent)


def labelled_part(options: argparse.Namespace, network: Network) -> tuple[Examples, str]:
    """--limit pictures of the --part of the data, drawn by --seed, with the network's own labels,
    and what they are in words."""
    from zfcuda.data.examples import Relabelled, drawn

    examples, kind = _part_of(
        options, network.preprocessing, lambda: labelled_split(options, network)
    )
    examples = drawn(examples, options.limit, options.seed)
    if network.class_names is not None and network.class_names != examples.class_names:
        labels = labels_of(examples.class_names, network)
        examples = Relabelled(examples, labels, network.class_names)
    what = f"of the {options.part} part ({kind})" if kind else "that come with zfcuda"
    return examples, f"{len(examples):,} pictures {what}"


def labels_of(names: Sequence[str], network: Network) -> list[int]:
    """The network's labels of the classes with these names, whatever their case."""
    known = {name.casefold(): label for label, name in enumerate(network.class_names or ())}
    unknown = [name for name in names if name.casefold() not in known]
    if unknown:
        raise ValueError(
            f"the network has no class {unknown[0]!r} ({len(unknown)} of the data's {len(names)} "
            "classes are not the network's): name the folders as the network names its classes"
        )
    return [known[name.casefold()] for name in names]


def list_all(folder: Path) -> list[Path]:
    """The image files of a folder, then those of the folders in it, by name, each once; hidden ones
    are left out, as they are in data sets of classes."""
    from zfcuda.data.reading import images_and_others, require_folder, tell_left_out

    require_folder(folder, "of images")
    paths: list[Path] = []
    others: list[Path] = []
    seen: set[Path] = set()
    for inner in (folder, *sorted(path for path in folder.rglob("*") if path.is_dir())):
        hidden = any(part.startswith(".") for part in inner.relative_to(folder).parts)
        if hidden or inner.resolve() in seen:  # a link to a folder that was counted
            continue
        seen.add(inner.resolve())
        images, more = images_and_others(inner)
        paths += images
        others += more
    tell_left_out(others)
    return paths


TRUE = "true"
TARGET_HELP = f"; with --data also '{TRUE}': each image's own, by its folder or its label"


def true_labels(images: Images, network: Network) -> Tensor:
    """Each image's own class, int64 [N], as the network numbers it."""
    import torch

    if not images.class_names or bool((images.labels < 0).any()):
        raise ValueError(
            f"--target {TRUE}: nothing says what the images show; expected a folder for each class "
            "or IDX files"
        )
    if network.class_names is None or network.class_names == images.class_names:
        return images.labels
    return torch.tensor(labels_of(images.class_names, network))[images.labels]
