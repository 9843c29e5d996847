"""Tables: beside results for spreadsheets and pandas, and on the terminal.

Names in their cells come from files, and do nothing there: control characters are written as
escapes, and a text that a spreadsheet would take for a formula has an apostrophe before it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zfcuda._files import atomic_path
from zfcuda._text import visible

__all__ = ["read_csv", "text_table", "write_csv"]

# With the apostrophes before it: so the one that is added can be told from a name's own.
_FORMULA = re.compile("'*[=+@-]")


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names, as RFC 4180 has it; the file appears whole or not at all.

    Numbers stay numbers. Names of files are written byte for byte also where they are no UTF-8.

    Raises:
        OSError: the folder cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(map(_cell, head))
        writer.writerows(map(_cell, row) for row in rows)


def read_csv(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table that :func:`write_csv` wrote, by its line of names.

    Raises:
        OSError: there is no such file.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            yield {_text(name): _text(cell) for name, cell in row.items() if isinstance(cell, str)}


def text_table(
    rows: Sequence[Sequence[object]] | Sequence[Mapping[str, object]],
    headers: Sequence[str] = (),
    tablefmt: str = "simple",
    colalign: Sequence[str] | None = None,
) -> str:
    """A table as text, a line each row; ``rows`` of mappings bring their headers, and ``tablefmt``
    is one of tabulate's."""
    from tabulate import tabulate

    if rows and isinstance(rows[0], Mapping):
        headers = [*rows[0]]
        rows = [[*row.values()] for row in rows]  # type: ignore[union-attr]
    cells = [[visible(cell) for cell in row] for row in rows]
    options: dict[str, Any] = {"colalign": colalign} if colalign and cells else {}
    return tabulate(cells, [*map(visible, headers)], tablefmt, disable_numparse=True, **options)


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _text(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
