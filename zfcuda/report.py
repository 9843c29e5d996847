"""Figures and their numbers as one static page: no scripts, no network, thumbnails in the page.

Names and texts are data: everything is escaped. The page links to the pictures in full size and to
the files with their numbers, relative to its folder, so that the folder can be moved or served.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from zfcuda._files import atomic_path

__all__ = ["Entry", "Section", "facts_of", "write_index"]

_MANY = 9  # figures of a section, from which on they are shown smaller
# A thumbnail is as large as it is shown at most, twice over for fine screens.
_SMALL, _NARROW, _WIDE = 600, 960, 1680
_WIDE_FROM = 2.5  # width over height, from which on a figure takes a whole row
_QUALITY = 80


@dataclass(frozen=True)
class Entry:
    """One figure of a page and the files with its numbers.

    Attributes:
        title: heading, also the start of the picture's alternative text.
        figure: the picture's path.
        numbers: paths of the files that hold what the picture shows.
        text: what to see in it, in plain words.
        tag: which figures of the talk or the paper it is, as "talk figure 5, paper figure 7".
        pdf: the picture once more, for print.
        facts: how it was made: a table that is folded away.
        problem: what is wrong with its files, if anything.
    """

    title: str
    figure: Path
    numbers: tuple[Path, ...] = ()
    text: str = ""
    tag: str = ""
    pdf: Path | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    problem: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that belongs to it, the picture first."""
        return (self.figure, *([self.pdf] if self.pdf else []), *self.numbers)


@dataclass(frozen=True)
class Section:
    """Entries under one heading; `problem` says why there are none."""

    title: str
    entries: Sequence[Entry] = ()
    text: str = ""
    problem: str = ""
    tag: str = ""


def facts_of(provenance: Mapping[str, Any]) -> dict[str, object]:
    """Provenance, as `zfcuda._writing` writes it, as rows of a table."""
    facts = {key: value for key, value in provenance.items() if key not in ("settings", "versions")}
    command = {"command": name} if (name := facts.pop("command", "")) else {}
    settings, versions = (
        said if isinstance(said := provenance.get(key), dict) else {}
        for key in ("settings", "versions")
    )
    settings = {key: value for key, value in settings.items() if value is not None}
    versions = ", ".join(f"{package} {number}" for package, number in versions.items())
    return command | settings | facts | ({"versions": versions} if versions else {})


@dataclass(frozen=True)
class _Link:
    href: str
    name: str
    label: str  # shorter: what tells an entry's files apart


@dataclass(frozen=True)
class _Picture:
    """A thumbnail and what it leads to."""

    full: _Link
    thumbnail: str  # a data URI, or "" where the picture cannot be read
    width: int
    height: int

    @property
    def wide(self) -> bool:
        return self.width >= _WIDE_FROM * self.height


@dataclass(frozen=True)
class _Card:
    title: str
    text: str
    tags: Sequence[str]
    problem: str
    picture: _Picture
    files: Sequence[_Link]
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
    page = _template().render(
        title=_shown(title),
        intro=_shown(intro),
        empty=empty,
        facts={_shown(name): _value(value) for name, value in (facts or {}).items()},
        groups=_groups(sections, path.parent),
    )
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return path


def _template() -> Any:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'the index page needs Jinja2; install it with: pip install "zfcuda[demo]"'
        ) from None
    environment = Environment(
        loader=PackageLoader("zfcuda"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _groups(sections: Sequence[Section], folder: Path) -> list[_Group]:
    anchors: set[str] = set()
    groups = []
    for section in sections:
        texts = {entry.text for entry in section.entries}
        shared = texts.pop() if len(section.entries) > 1 and len(texts) == 1 else ""
        groups.append(
            _Group(
                _anchor(section.tag if re.search(r"\d", section.tag) else section.title, anchors),
                _shown(section.title),
                _shown(section.text or shared),
                _tags(section.tag),
                _shown(section.problem),
                [_card(entry, section, shared, folder) for entry in section.entries],
            )
        )
    return groups


def _card(entry: Entry, section: Section, shared: str, folder: Path) -> _Card:
    """What the section says already is not said again."""
    return _Card(
        _shown(entry.title),
        "" if entry.text == shared else _shown(entry.text),
        [] if entry.tag == section.tag else _tags(entry.tag),
        _shown(entry.problem),
        _picture(entry.figure, folder, small=len(section.entries) >= _MANY),
        [_link(path, folder, _label(path, entry.figure)) for path in entry.files],
        {_shown(name): _value(value) for name, value in entry.facts.items()},
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
    return [_shown(part.strip()) for part in re.split(r",(?!\s*\d)", tag) if part.strip()]


def _link(path: Path, folder: Path, label: str = "") -> _Link:
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return _Link(quote(os.fsencode(relative)), _shown(path.name), _shown(label or path.name))


def _label(path: Path, figure: Path) -> str:
    """ "PNG" for the entry's own files, "projection.npz" for one with a name of its own."""
    own = path.stem == figure.stem
    return path.suffix[1:].upper() if own else path.name.removeprefix(f"{figure.stem}-")


def _shown(text: object) -> str:
    """Text that can be written: file names may hold bytes that are no characters."""
    return str(text).encode("utf-8", "replace").decode("utf-8")


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    plain = value is None or isinstance(value, dict | bool)
    return _shown(json.dumps(value, ensure_ascii=False) if plain else value)


# ------------------------------------------------------------------------------- thumbnails


def _picture(path: Path, folder: Path, small: bool) -> _Picture:
    link = _link(path, folder)
    try:
        with Image.open(path) as image:
            width, height = image.size
            limit = _WIDE if width >= _WIDE_FROM * height else _NARROW
            limit = _SMALL if small else limit
            return _Picture(link, _data_uri(image, limit), width, height)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _Picture(link, "", 1, 1)


def _data_uri(image: Image.Image, limit: int) -> str:
    small = image.convert("RGB")
    small.thumbnail((limit, limit), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
