"""A page: figures and their files, under headings."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from zfcuda.data.reading import opened
from zfcuda.storage.files import printable, write_bytes
from zfcuda.storage.terminal import extra


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
    """Provenance, as `zfcuda.report.writing` writes it, as rows of a table."""
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
class Link:
    """A file beside the page."""

    href: str
    name: str
    label: str  # shorter: what tells an entry's files apart


def link_to(path: Path, folder: Path, label: str = "") -> Link:
    """A link to a file from a page in a folder."""
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return Link(quote(os.fsencode(relative)), path.name, label or path.name)


def value_shown(value: object) -> str:
    """A setting as one reads it; lists in lists as JSON has them."""
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return str(value) if nested else ", ".join(map(value_shown, value))
    plain = value is None or isinstance(value, dict | bool)
    return json.dumps(value, ensure_ascii=False) if plain else str(value)


def template(name: str) -> Any:
    """The template ``name``, which lies beside this file, and which escapes what it is given and
    makes it printable.

    Raises:
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
    """
    with extra("the index page needs Jinja2"):
        from jinja2 import Environment, PackageLoader, StrictUndefined
    environment = Environment(
        loader=PackageLoader("zfcuda", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else printable(value),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = value_shown
    return environment.get_template(name)


# A thumbnail is as large as it is shown at most, twice over for fine screens.
_SMALL, _NARROW, _WIDE = 600, 960, 1680
_WIDE_FROM = 2.5  # width over height, from which on a figure takes a whole row
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A thumbnail and what it leads to."""

    full: Link
    thumbnail: str  # a data URI, or "" where the picture cannot be read
    width: int
    height: int

    @property
    def wide(self) -> bool:
        return self.width >= _WIDE_FROM * self.height


def picture_of(path: Path, folder: Path, small: bool) -> Picture:
    """The thumbnail of a file, ``small`` where many stand together; a link where it cannot be
    read."""
    link = link_to(path, folder)
    try:
        with opened(path) as image:
            picture = Picture(link, "", *image.size)
            limit = _SMALL if small else _WIDE if picture.wide else _NARROW
            thumbnail = image.convert("RGB")
            thumbnail.thumbnail((limit, limit), Image.Resampling.LANCZOS, reducing_gap=2.0)
            data = base64.b64encode(webp(thumbnail, _QUALITY)).decode()
            return replace(picture, thumbnail=f"data:image/webp;base64,{data}")
    except Exception:  # decoders raise all kinds on bad bytes
        return Picture(link, "", 1, 1)


def webp(image: Image.Image, quality: int) -> bytes:
    """The picture as a WebP file."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


_MANY = 9  # figures of a section, from which on they are shown smaller


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
    said = {"title": title, "intro": intro, "empty": empty, "facts": facts or {}}
    page = template("report.html").render(groups=_groups(sections, path.parent), **said)
    write_bytes(path, page.encode())
    return path


def _groups(sections: Sequence[Section], folder: Path) -> list[dict[str, Any]]:
    """What the template is made of; what a section says is not said again by its figures."""
    anchors: set[str] = set()
    groups = []
    for section in sections:
        texts, many = {entry.text for entry in section.entries}, len(section.entries) >= _MANY
        shared = texts.pop() if len(section.entries) > 1 and len(texts) == 1 else ""
        anchor = section.tag if re.search(r"\d", section.tag) else section.title
        cards = [
            vars(entry)
            | {
                "text": "" if entry.text == shared else entry.text,
                "tags": [] if entry.tag == section.tag else _tags(entry.tag),
                "picture": picture_of(entry.figure, folder, many),
                "files": [link_to(f, folder, _label(f, entry.figure)) for f in entry.files],
            }
            for entry in section.entries
        ]
        own = {"anchor": _anchor(anchor, anchors), "tags": _tags(section.tag)}
        own |= {"text": section.text or shared, "cards": cards, "many": many}
        groups.append(vars(section) | own)
    return groups


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
    return [part.strip() for part in re.split(r",(?!\s*\d)", tag) if part.strip()]


def _label(path: Path, figure: Path) -> str:
    """ "PNG" for the entry's own files, "projection.npz" for one with a name of its own."""
    own = path.stem == figure.stem
    return path.suffix[1:].upper() if own else path.name.removeprefix(f"{figure.stem}-")
