"""From entries to the page."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zfcuda.report.entries import Entry, Section
from zfcuda.report.templates import template
from zfcuda.report.texts import Link, link_to, value_shown
from zfcuda.report.thumbnails import Picture, picture_of
from zfcuda.storage.files import atomic_path, printable

__all__ = ["write_index"]

_MANY = 9  # figures of a section, from which on they are shown smaller


@dataclass(frozen=True)
class _Card:
    title: str
    text: str
    tags: Sequence[str]
    problem: str
    picture: Picture
    files: Sequence[Link]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class _Group:
    anchor: str
    title: str
    text: str
    tags: Sequence[str]
    problem: str
    cards: Sequence[_Card]

    @property
    def many(self) -> bool:
        return len(self.cards) >= _MANY


def write_index(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    intro: str = "",
    facts: Mapping[str, object] | None = None,
    empty: str = "There is no figure here yet.",
) -> Path:
    """Write the page atomically to `path` and return it.

    Every title, text, file name and fact is escaped. A picture that cannot be read stays a link.

    Args:
        intro: below the title.
        facts: a table of settings at the end.
        empty: what the page says when there is no section.

    Raises:
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
        OSError: the page cannot be written.
    """
    path = Path(path)
    page = template("report.html").render(
        title=printable(title),
        intro=printable(intro),
        empty=empty,
        facts={printable(name): value_shown(value) for name, value in (facts or {}).items()},
        groups=_groups(sections, path.parent),
    )
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return path


def _groups(sections: Sequence[Section], folder: Path) -> list[_Group]:
    anchors: set[str] = set()
    groups = []
    for section in sections:
        texts = {entry.text for entry in section.entries}
        shared = texts.pop() if len(section.entries) > 1 and len(texts) == 1 else ""
        groups.append(
            _Group(
                _anchor(section.tag if re.search(r"\d", section.tag) else section.title, anchors),
                printable(section.title),
                printable(section.text or shared),
                _tags(section.tag),
                printable(section.problem),
                [_card(entry, section, shared, folder) for entry in section.entries],
            )
        )
    return groups


def _card(entry: Entry, section: Section, shared: str, folder: Path) -> _Card:
    """What the section says already is not said again."""
    return _Card(
        printable(entry.title),
        "" if entry.text == shared else printable(entry.text),
        [] if entry.tag == section.tag else _tags(entry.tag),
        printable(entry.problem),
        picture_of(entry.figure, folder, small=len(section.entries) >= _MANY),
        [link_to(path, folder, _label(path, entry.figure)) for path in entry.files],
        {printable(name): value_shown(value) for name, value in entry.facts.items()},
    )


def _anchor(name: str, taken: set[str]) -> str:
    """A readable name for links into the page, as "talk-figure-5"."""
    base = "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "section"
    anchor, number = base, 2
    while anchor in taken:
        anchor, number = f"{base}-{number}", number + 1
    taken.add(anchor)
    return anchor


def _tags(tag: str) -> list[str]:
    """The figures of a tag; "talk figures 1, 2" is one."""
    return [printable(part.strip()) for part in re.split(r",(?!\s*\d)", tag) if part.strip()]


def _label(path: Path, figure: Path) -> str:
    """ "PNG" for the entry's own files, "projection.npz" for one with a name of its own."""
    own = path.stem == figure.stem
    return path.suffix[1:].upper() if own else path.name.removeprefix(f"{figure.stem}-")
