"""The frame that commands run in: load the network, read the images, look, write, say.

A command is its options, a function that looks at something and returns a :class:`Finding`, and its
words. Here and in the commands' modules torch is imported inside functions only, so that
`zfcuda --help` and errors in the options are quick.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zfcuda.storage.files import digest, subject
from zfcuda.storage.terminal import remark, say, skipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image
    from torch import Tensor

    from zfcuda.cli.network import Network
    from zfcuda.data.images import Images
    from zfcuda.experiments.over import Run
    from zfcuda.report.page import Entry
    from zfcuda.report.writing import Provenance
    from zfcuda.results.base import Result


@dataclass(frozen=True)
class Finding:
    """What a command found, as it is written and said."""

    title: str  # heading on a page of results
    text: str  # what to see, in plain words
    result: Result
    figure: Figure
    tag: str  # which figures of the talk or the paper it is, as "talk figure 5, paper figure 7"
    # Further results, by what is appended to the name of their files.
    more: Mapping[str, Result] = field(default_factory=dict)
    # What was computed with, where that is not what the options say.
    settings: Mapping[str, object] = field(default_factory=dict)
    lines: Sequence[object] = ()  # printed before the text


def write(finding: Finding, stem: Path, provenance: Provenance) -> Entry:
    """Save numbers (STEM.npz, STEM.json), then the picture (STEM.png, and STEM.pdf if the
    provenance says so): no picture lacks its numbers. What there is `more` has a name appended;
    title, text and tag go into the JSON file, for `zfcuda gallery`."""
    from zfcuda.report.page import Entry, facts_of
    from zfcuda.report.writing import save_numbers, save_pictures

    facts = provenance.facts()
    others: list[Path] = []
    for name, other in finding.more.items():
        place = stem.with_name(f"{stem.name}-{name}")
        others += save_numbers(other, place, {"provenance": facts})
    said = {"title": finding.title, "text": finding.text, "figure": finding.tag}
    about = {"provenance": facts, "entry": {**said, "files": [file.name for file in others]}}
    numbers = save_numbers(finding.result, stem, about)
    png, *pdf = save_pictures(finding.figure, stem, provenance.pdf)
    files, print_too = (*numbers, *others), pdf[0] if pdf else None
    shown = facts_of(facts)
    return Entry(finding.title, png, files, finding.text, finding.tag, print_too, shown)


def each_image(
    options: argparse.Namespace,
    look: Callable[[Network, Tensor, str], Finding | None],
    check: Callable[[str, Image], None] = lambda path, image: None,
) -> None:
    """Look at every --image: ``look(network, x [1,C,H,W], path)`` gives None where there is nothing
    to write. All are read, and `check` has seen them, before the network is loaded."""
    from zfcuda.data import read_image
    from zfcuda.report.writing import Provenance, writable_folder

    if not options.image:
        raise ValueError(f"{options.command} needs --image FILE")
    images = [read_image(path) for path in options.image]
    for path, image in zip(options.image, images, strict=True):
        check(path, image)
    folder = writable_folder(options.out)
    network = loaded(options)
    names = stems(options.image, options.command)
    for path, name, image in zip(options.image, names, images, strict=True):
        about = {"image": path, "image_sha256": digest(Path(path))}
        provenance = Provenance.of(options, network.facts(), **about)
        finding = look(network, network.input(image), path)
        if finding is not None:
            _conclude(finding, folder / name, provenance)


def one_result(
    options: argparse.Namespace,
    name: str,
    look: Callable[[Any, argparse.Namespace], Finding],
) -> None:
    """One finding, ``look(network, options)``, in files that are called ``name``."""
    from zfcuda.report.writing import Provenance, writable_folder

    folder = writable_folder(options.out)
    network = loaded(options)
    provenance = Provenance.of(options, network.facts() if network else None)
    _conclude(look(network, options), folder / name, provenance)


def loaded(options: argparse.Namespace) -> Any:
    """The network that the options name; of a command that has its own way, what that gives, as
    None where it trains one."""
    from zfcuda.cli.network import Network

    return getattr(options, "load", Network.of)(options)


def _conclude(finding: Finding, stem: Path, provenance: Provenance) -> None:
    from zfcuda.report.writing import place

    settings = {**provenance.settings, **finding.settings}
    provenance = dataclasses.replace(provenance, settings=settings)
    entry = write(finding, place(stem, provenance), provenance)
    say(*entry.files, *finding.lines, entry.text)


def figure_title(
    network: Network, name: str, what: str, layers: Sequence[str] | None = None, channel: Any = None
) -> str:
    """What a figure is of: the image, the experiment, the model, and what of it."""
    layers = layers if layers is None or isinstance(layers, str) else [*layers]
    return f"{name}: {what}, {subject(network.spec, layers, channel)}"


_LONGEST = 200  # bytes of an input's name in an output's; file systems take 255


def stems(paths: Sequence[str], command: str) -> list[str]:
    """An output name for each input: its own, numbered where two inputs share one, and cut where
    it would leave no room for what is appended."""
    names: list[str] = []
    for path in paths:
        own = Path(path).stem
        while len(os.fsencode(own)) > _LONGEST:
            own = own[:-1]
        stem, number = f"{own}-{command}", 2
        while stem in names:
            stem, number = f"{own}-{number}-{command}", number + 1
        names.append(stem)
    return names


def list_layers(options: argparse.Namespace) -> None:
    """Print the names, kinds and output shapes of the network's layers, for --list-layers."""
    from zfcuda.storage.files import text_table

    layers = loaded(options).layers()
    rows = [(name, kind, "×".join(map(str, shape))) for name, kind, shape, _ in layers]
    say(*text_table(rows, tablefmt="plain").splitlines())


# --- every image of a data set --------------------------------------------------------------------


@contextmanager
def data_set(options: argparse.Namespace) -> Iterator[tuple[Network, Images]]:
    """The network and the images of --data, among the processes that torchrun started."""
    from zfcuda.cli.inputs import images_of
    from zfcuda.cli.network import Network, pick_device
    from zfcuda.storage.ranks import from_environment

    if options.image:
        raise ValueError(f"{options.command} takes --image or --data, not both")
    with from_environment(pick_device(options.device)):
        network = Network.of(options)
        yield network, images_of(options, network)[0]


def run_settings(
    options: argparse.Namespace, network: Network, images: Images, target: str | None
) -> dict[str, Any]:
    """What every run over a data set is given; its folder lies in --out, called after data and
    command."""
    from zfcuda.cli.inputs import TRUE, true_labels
    from zfcuda.report.writing import writable_folder

    labels = true_labels(images, network) if target == TRUE else network.label(target)
    name = Path(options.data).resolve().name or "data"
    about = {"command": options.command, "model": network.spec, "data": str(options.data)}
    if network.own_names:
        about["class_names"] = list(network.own_names)
    return {
        "folder": writable_folder(Path(options.out) / f"{name}-{options.command}"),
        "target": labels,
        "fill": network.fill(options.fill),
        "about": about,
        "outputs": network.outputs,
    }


def draw_run(
    run: Run, numbers: Sequence[int], figure_of: Callable[[Any, Tensor, str], Figure], pdf: bool
) -> None:
    """Pictures of these images' results, ``figure_of(result, x [1,C,H,W], name)``, beside them;
    those that are there stay."""
    from zfcuda.report.writing import save_pictures

    for number in numbers:
        stem = run.stem(number)
        wanted = ("png", "pdf") if pdf else ("png",)
        if all(stem.with_name(f"{stem.name}.{kind}").exists() for kind in wanted):
            continue
        x = run.images.tried(number)
        if isinstance(x, str):  # it has vanished since its result was made
            continue
        figure = figure_of(run.result(number), x[None], Path(run.images.names[number]).name)
        save_pictures(figure, stem, pdf)


def announce_run(
    run: Run, figure: Figure, unread: Sequence[str], text: str, pdf: bool = False
) -> None:
    """Write the summary's picture and the page; print what there is of the run and `text`, what was
    found, and on standard error which images could not be read."""
    from zfcuda.report.gallery import write_gallery
    from zfcuda.report.writing import save_pictures

    pictures = save_pictures(figure, run.folder / "summary", pdf)
    numbers = [run.folder / f"summary.{kind}" for kind in ("npz", "json")]
    tables = sorted(run.folder.glob("*.csv"))
    try:
        page = [write_gallery(run.folder)[0]]
    except ModuleNotFoundError as error:
        page = []
        remark(f"no gallery: {error}")
    say(*numbers, *tables, *pictures, *page, text)
    skipped(unread)
