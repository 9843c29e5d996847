"""Tables beside results, for spreadsheets and pandas."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from zfcuda._files import atomic_path

__all__ = ["write_csv"]


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table with a line of names, as RFC 4180 has it; the file appears whole or not at all.

    Names are written as they are, those of files byte for byte also where they are no UTF-8.

    Raises:
        OSError: the folder cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
