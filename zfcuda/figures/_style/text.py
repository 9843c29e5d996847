"""Names and numbers as short as a figure needs them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np

from zfcuda._text import printable


def fit(text: str, width: int, lines: int = 2) -> str:
    """Wrap `text` to at most `lines` lines of `width` characters; then an ellipsis."""
    return "\n".join(
        textwrap.wrap(printable(text), width=max(width, 4), max_lines=lines, placeholder=" …")
        or [printable(text)[:width]]
    )


def fit_name(name: str, width: int) -> str:
    """A dotted layer name cut from the left: its end is what tells layers apart."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[1 - width :]


def class_name(names: Sequence[str] | None, label: int) -> str:
    """The name of a class, or "class 7" where no name is known."""
    if names is None or not 0 <= label < len(names):
        return f"class {label}"
    return str(names[label])


def number(value: float) -> str:
    """Three significant digits, short, without e-notation in the usual range."""
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2g}"
