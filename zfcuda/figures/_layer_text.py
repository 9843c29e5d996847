"""What stands in the boxes of a diagram, wrapped to their width."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from zfcuda.figures._style import fit, fit_name

BOLD, SMALL = 7.0, 6.5  # points, where boxes are wide enough
_WORD = 13  # letters of "normalisation", which should not be broken
_LETTER = 0.0083  # inches of width, times points; bold ones are wider:
_BOLD_LETTER = 0.0098


@dataclass(frozen=True)
class Text:
    """A box's heading and what is below it, wrapped."""

    heading: str
    rest: str

    @property
    def heading_lines(self) -> int:
        return 1 + self.heading.count("\n")

    @property
    def lines(self) -> int:
        return self.heading_lines + (1 + self.rest.count("\n") if self.rest else 0)


class Writer:
    """Wraps what stands in boxes of one width; where they are narrow, in smaller letters."""

    def __init__(self, width: float) -> None:
        self.scale = float(np.clip(width / (_WORD * _BOLD_LETTER * BOLD), 0.7, 1.0))
        self.letters = int(width / (_LETTER * SMALL * self.scale))
        self._bold_letters = int(width / (_BOLD_LETTER * BOLD * self.scale))

    def write(self, heading: str, *rest: str) -> Text:
        """A heading, and below it the rest, in one line if it fits."""
        # "stride 2" stays together.
        parts = [re.sub(r"(stride|pad|dilation) ", "\\1\u00a0", part) for part in rest if part]
        joined = ": ".join(parts)
        if len(joined) > self.letters:
            joined = "\n".join(fit(part, self.letters, 2) for part in parts)
        return Text(fit(heading, self._bold_letters, 2), joined)

    def name(self, name: str) -> str:
        """A dotted name without the first parts that do not fit."""
        while "." in name and len(name) > self.letters:
            name = name.partition(".")[2]
        return fit_name(name, self.letters)
