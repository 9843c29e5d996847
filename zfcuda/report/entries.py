"""What a page is made of: figures and their files, under headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
