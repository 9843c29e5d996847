"""A folder of results as one page: every picture in it with its numbers and settings.

What a picture shows is read from the JSON file beside it (see `zfcuda.cli.command.write`);
pictures of others, without one, are shown as well.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zfcuda.report.page import Entry, Section, facts_of, write_index
from zfcuda.storage.files import read_json, subject

# The experiments' headings, by the command that makes them.
_HEADINGS = {
    "ablate": "Ablations",
    "background": "What the background contributes",
    "correspond": "Correspondence between parts",
    "deconv": "Projections",
    "diagram": "The deconvnet",
    "evolve": "Features during training",
    "filters": "First-layer filters",
    "invariance": "Invariance",
    "occlude": "Occlusion",
    "predict": "Predictions",
    "probe": "What each layer knows",
    "rotate": "Rotation",
    "top9": "Strongest activations",
    "train": "Training",
    "uncertainty": "Uncertainty",
}
_ORDER = re.compile(r"(talk|paper) (figure|table)s? (\d{1,9})")
_SOURCES = ("talk", "paper")


def write_gallery(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
    only: Collection[Path] | None = None,
) -> tuple[Path, int]:
    """Write the page of a folder of results; returns its path and how many figures it shows.

    Args:
        folder: searched with all folders in it, hidden ones left out.
        path: of the page; default: `gallery.html` in the folder.
        title: default: the folder's name.
        only: folders whose own pictures are shown; default: all.

    Raises:
        ValueError: `folder` is not a folder.
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
        OSError: the page cannot be written.
    """
    folder = Path(folder)
    sections = collect(folder, only)
    count = sum(len(section.entries) for section in sections)
    page = write_index(
        folder / "gallery.html" if path is None else path,
        title or folder.resolve().name,
        sections,
        _summary(sections, count),
        empty="There is no figure in this folder yet. Every command of zfcuda writes its figures "
        "into the folder named by --out.",
    )
    return page, count


def collect(folder: str | os.PathLike[str], only: Collection[Path] | None = None) -> list[Section]:
    """The figures in a folder, by experiment: the talk's first, then the paper's, then others.

    `only` names the folders whose own pictures count; without it all do.

    Raises:
        ValueError: `folder` is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"'{folder}' {state}: expected a folder of results")
    groups: dict[tuple[str, str], list[Entry]] = {}
    for picture in sorted(_pictures(folder), key=_as_counted):
        if only is not None and picture.parent not in only:
            continue
        entry = _by_image(read_entry(picture))
        groups.setdefault((entry.tag, _heading(entry, folder)), []).append(entry)
    return [
        Section(heading, entries, tag=tag)
        for (tag, heading), entries in sorted(groups.items(), key=lambda item: _place(*item[0]))
    ]


def read_entry(picture: Path) -> Entry:
    """What is known about a picture: its files, and what its JSON file says; never raises."""
    stem = picture.with_suffix("")
    pdf, npz, header_path = (stem.with_name(f"{stem.name}{s}") for s in (".pdf", ".npz", ".json"))
    header, problem = _header(header_path)
    said = _mapping(header.get("entry"))
    numbers = [npz, header_path, *_more_files(picture.parent, said.get("files"))]
    return Entry(
        str(said.get("title") or picture.stem),
        picture,
        tuple(path for path in numbers if _is_there(path)),
        str(said.get("text", "")),
        str(said.get("figure", "")),
        pdf if _is_there(pdf) else None,
        facts_of(_mapping(header.get("provenance"))),
        problem,
    )


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than the system takes
        return False


def _pictures(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*.png"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path


def _as_counted(path: Path) -> list[tuple[bool, int, str]]:
    """Orders image-2 before image-10."""
    parts = re.split(r"(\d+)", str(path))
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _header(path: Path) -> tuple[Mapping[str, Any], str]:
    """The JSON file's content, and what is wrong with it."""
    try:
        return read_json(path), ""
    except FileNotFoundError:
        return {}, "No numbers lie beside this picture."
    except (OSError, ValueError):
        return {}, f"{path.name} cannot be read; this picture's numbers are in doubt."


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _more_files(folder: Path, names: Any) -> list[Path]:
    """Files in the folder itself only: a JSON file of others may name anything."""
    names = names if isinstance(names, list) else []
    return [folder / name for name in names if isinstance(name, str) and Path(name).name == name]


def _by_image(entry: Entry) -> Entry:
    """Named after the image that was looked at, if it was one, the model, its layers and map: they
    tell a section's figures apart."""
    facts = entry.facts
    image, model = facts.get("image"), facts.get("model")
    title = Path(image).name if isinstance(image, str) and image else entry.title
    if isinstance(model, str) and model:
        title = f"{title}: {subject(model, facts.get('layer'), facts.get('channel'))}"
    return replace(entry, title=title)


def _heading(entry: Entry, folder: Path) -> str:
    heading = _HEADINGS.get(str(entry.facts.get("command", "")))
    if heading:
        return heading
    inside = entry.figure.parent.relative_to(folder)
    return str(inside) if inside.parts else "Other figures"


def _place(tag: str, heading: str) -> tuple[object, ...]:
    """The talk's figures in their order, the paper's, its tables, what else they have, the rest by
    name."""
    found = sorted(
        (_SOURCES.index(source), kind == "table", int(number))
        for source, kind, number in _ORDER.findall(tag.lower())
    )
    return (not found, not tag, found[0] if found else (), heading)


def _summary(sections: Iterable[Section], count: int) -> str:
    models = {str(e.facts["model"]) for s in sections for e in s.entries if "model" in e.facts}
    figures = f"{count} figure{'' if count == 1 else 's'}"
    of = f" of {', '.join(sorted(models)[:4])}{', …' if len(models) > 4 else ''}" if models else ""
    return f"{figures}{of}. Each picture leads to its full size; below it are its numbers." * (
        count > 0
    )
