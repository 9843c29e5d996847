"""Boxes, arrows and links of a diagram, on axes whose unit is an inch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from zfcuda.figures._layer_text import BOLD, SMALL, Text
from zfcuda.figures._style import INK, MUTED, PALETTE

WIDTH = 7.0  # of the diagram: what is mirrored is so at its middle
LINE = 0.122  # of a box's text
FORWARD, BACKWARD, SWITCHES = PALETTE[0], "#C24F00", "#00805D"

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """In inches: ``x`` is its middle, ``y`` its bottom."""

    x: float
    y: float
    width: float
    height: float

    @property
    def top(self) -> float:
        return self.y + self.height

    @property
    def mirrored(self) -> Box:
        return Box(WIDTH - self.x, self.y, self.width, self.height)


def draw_box(
    ax: Axes, box: Box, text: Text, fill: str, scale: float = 1.0, line: str = "-"
) -> None:
    """A box filled with a colour and with its text, whose letters are smaller by ``scale``."""
    ax.add_patch(
        FancyBboxPatch(
            (box.x - box.width / 2, box.y),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=fill,
            edgecolor=MUTED,
            linewidth=0.7,
            linestyle=line,
            zorder=3,
        )
    )
    line_height = LINE * scale
    y = box.y + (box.height + text.lines * line_height) / 2
    style = {"ha": "center", "va": "top", "color": INK, "zorder": 4, "linespacing": 1.1}
    ax.text(box.x, y, text.heading, fontsize=BOLD * scale, fontweight="bold", **style)
    ax.text(box.x, y - text.heading_lines * line_height, text.rest, fontsize=SMALL * scale, **style)


def draw_link(ax: Axes, box: Box, text: str, colour: str, head: str, line: str) -> None:
    """From a box to its counterpart, behind what stands between them."""
    y = box.y + box.height / 2
    ends = [(box.x - box.width / 2, y), (WIDTH - box.x + box.width / 2, y)]
    ax.add_patch(_patch(Path(ends), colour, head, line, zorder=1))
    ax.text(WIDTH / 2, y + 0.04, text, ha="center", va="bottom", fontsize=7, color=colour)


def draw_path(
    ax: Axes, points: Sequence[Point], colour: str, head: str = "-|>", style: str = "-"
) -> None:
    """An arrow through points, leaving and reaching each of them vertically."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Path.CURVE4] * 3
    ax.add_patch(_patch(Path(vertices, codes), colour, head, style, zorder=2.5))


def _patch(path: Path, colour: str, head: str, style: str, zorder: float) -> FancyArrowPatch:
    return FancyArrowPatch(
        path=path,
        arrowstyle=head,
        mutation_scale=8,
        color=colour,
        linewidth=1.1,
        linestyle=style,
        zorder=zorder,
    )


def draw_plus(ax: Axes, x: float, y: float) -> None:
    """Where the signals of several consumers meet."""
    ax.add_patch(
        Circle((x, y), 0.06, facecolor="white", edgecolor=BACKWARD, linewidth=0.9, zorder=4)
    )
    for dx, dy in ((0.033, 0.0), (0.0, 0.033)):
        ax.plot([x - dx, x + dx], [y - dy, y + dy], color=BACKWARD, linewidth=0.9, zorder=5)
