"""Names and numbers as short as a figure needs them."""

from __future__ import annotations

import re
import textwrap

import numpy as np

from zfcuda.storage.files import class_name, printable

__all__ = ["class_name", "fit", "fit_ends", "fit_name", "fold_name", "number"]


def fit(text: str, width: int, lines: int = 2) -> str:
    """Wrap `text` to at most `lines` lines of `width` characters; then an ellipsis."""
    text, width = printable(text), max(width, 4)
    wrapped = textwrap.wrap(text, width=width, max_lines=lines, placeholder=" …")
    if wrapped and wrapped[-1] == "…":  # a word longer than the line, as file names are
        rest = text.split(maxsplit=sum(len(line.split()) for line in wrapped[:-1]))[-1]
        wrapped[-1] = rest[: width - 1] + "…"
    return "\n".join(wrapped or [text[:width]])


def fit_name(name: str, width: int) -> str:
    """A dotted layer name cut from the left: its end is what tells layers apart."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[1 - width :]


def fit_ends(name: str, width: int) -> str:
    """A file's name cut in the middle: series differ at their ends."""
    name = printable(name)
    return name if len(name) <= width else f"{name[: width // 3]}…{name[1 + width // 3 - width :]}"


def fold_name(name: str, width: int, lines: int = 2) -> str:
    """A dotted layer name in at most `lines` lines of `width` characters, broken where its pieces
    end; what does not fit is cut from the left."""
    folded = [""]
    for piece in re.findall(r"[^._]*[._]?", printable(name)):
        if folded[-1] and len(folded[-1]) + len(piece) > width:
            folded.append("")
        folded[-1] += piece
    shown = folded[-lines:]
    if len(folded) > lines:
        shown[0] = f"…{shown[0]}"
    return "\n".join(fit_name(line, width) for line in shown)


def number(value: float) -> str:
    """Three significant digits, short, without e-notation in the usual range."""
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2g}"
