"""A folder of figures and numbers as one static page: no scripts, no network, relative links."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from zfcuda._files import atomic_path

__all__ = ["Entry", "Section", "write_index"]


@dataclass(frozen=True)
class Entry:
    """One figure of a page and the files with its numbers.

    Attributes:
        title: heading, also the start of the picture's alternative text.
        figure: the picture's path.
        numbers: paths of the files that hold what the picture shows.
        text: what to see in it, in plain words.
        tag: which figure of the paper or the talk it is, as "paper figure 7".
        pdf: the picture once more, for print.
    """

    title: str
    figure: Path
    numbers: tuple[Path, ...] = ()
    text: str = ""
    tag: str = ""
    pdf: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that belongs to it, the picture first."""
        return (self.figure, *([self.pdf] if self.pdf else []), *self.numbers)


@dataclass(frozen=True)
class Section:
    """The entries of one image; `problem` says why there are none."""

    title: str
    entries: Sequence[Entry] = ()
    text: str = ""
    problem: str = ""


@dataclass(frozen=True)
class _Link:
    href: str
    name: str


@dataclass(frozen=True)
class _Figure:
    title: str
    text: str
    picture: _Link
    numbers: list[_Link] = field(default_factory=list)


def write_index(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    intro: str = "",
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write the page atomically to `path` and return it.

    Every title, text, file name and fact is escaped; links are relative to the page's folder, so
    the folder can be moved or served as it is. `facts` ends up as a table of settings.

    Raises:
        ModuleNotFoundError: Jinja2 (the "demo" extra) is not installed.
        OSError: the page cannot be written.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'the index page needs Jinja2; install it with: pip install "zfcuda[demo]"'
        ) from None
    path = Path(path)
    environment = Environment(
        loader=PackageLoader("zfcuda"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=title,
        intro=intro,
        facts=dict(facts or {}),
        sections=[(s, [_figure(entry, path.parent) for entry in s.entries]) for s in sections],
    )
    with atomic_path(path) as temporary:
        Path(temporary).write_text(page, encoding="utf-8")
    return path


def _figure(entry: Entry, folder: Path) -> _Figure:
    return _Figure(
        entry.title,
        entry.text,
        _link(entry.figure, folder),
        [_link(numbers, folder) for numbers in entry.numbers],
    )


def _link(path: Path, folder: Path) -> _Link:
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    return _Link(quote(relative), path.name)
