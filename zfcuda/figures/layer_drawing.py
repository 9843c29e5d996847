"""The diagram of a convnet layer and its deconvnet layer, to scale in inches.

The convnet is on the right and goes up, the deconvnet is its mirror image on the left and goes
down. Everything is placed when the drawing is made; `draw` puts it on axes of that size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from zfcuda.figures.projection import mark_support
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, fit, fit_name, number, show_image
from zfcuda.results.diagram import Diagram

_PASSING = 0.3  # width of an arrow that passes a rank, in boxes
_SWEEPS = 4


@dataclass(frozen=True)
class Arrangement:
    """Places of n boxes, the first of which are given, the others made of earlier ones.

    Attributes:
        rank: of each box, from 0 at the bottom.
        place: of each box, from left to right, in widths of a box, 0 in the middle.
        routes: by (from, to), the (place, rank) pairs that the arrow goes through on its way.
        width: of the widest rank, in boxes.
    """

    rank: tuple[int, ...]
    place: tuple[float, ...]
    routes: dict[tuple[int, int], tuple[tuple[float, int], ...]]
    width: float


def arrange(inputs: Sequence[Sequence[int]]) -> Arrangement:
    """Arrange boxes; ``inputs`` are, by box, the boxes (all earlier) that its arrows come from."""
    rank: list[int] = []
    for sources in inputs:
        rank.append(1 + max((rank[source] for source in sources), default=-1))
    rows: list[list[int]] = [[] for _ in range(max(rank) + 1)]
    above: dict[int, list[int]] = {}  # of boxes and passing places, numbered on behind the boxes
    passing: dict[tuple[int, int], list[int]] = {}
    count = len(inputs)
    for box, sources in enumerate(inputs):
        rows[rank[box]].append(box)
        for source in dict.fromkeys(sources):
            own = [*range(count, count + rank[box] - rank[source] - 1)]
            count += len(own)
            for step, (lower, upper) in enumerate(zip([source, *own], [*own, box], strict=True)):
                above.setdefault(lower, []).append(upper)
                if upper != box:
                    rows[rank[source] + step + 1].append(upper)
            passing[source, box] = own
    below: dict[int, list[int]] = {}
    for lower, uppers in above.items():
        for upper in uppers:
            below.setdefault(upper, []).append(lower)

    widths = [1.0] * len(inputs) + [_PASSING] * (count - len(inputs))
    place = _places(rows, widths)
    for _ in range(_SWEEPS):
        for neighbours, order in ((below, rows), (above, rows[::-1])):
            for row in order:
                row.sort(key=lambda box: fmean([place[n] for n in neighbours.get(box, [box])]))
                place |= _places([row], widths)
    at = {box: number for number, row in enumerate(rows) for box in row}
    return Arrangement(
        rank=tuple(rank),
        place=tuple(place[box] for box in range(len(inputs))),
        routes={
            arrow: tuple((place[box], at[box]) for box in (arrow[0], *own, arrow[1]))
            for arrow, own in passing.items()
        },
        width=max(sum(widths[box] for box in row) for row in rows),
    )


def _places(rows: Sequence[Sequence[int]], widths: Sequence[float]) -> dict[int, float]:
    """Side by side, the middle of each row at 0."""
    place = {}
    for row in rows:
        left = -sum(widths[box] for box in row) / 2
        for box in row:
            place[box] = left + widths[box] / 2
            left += widths[box]
    return place


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
    edge = {"edgecolor": MUTED, "linewidth": 0.7, "linestyle": line, "zorder": 3}
    corner, shape = (box.x - box.width / 2, box.y), "round,pad=0,rounding_size=0.06"
    ax.add_patch(FancyBboxPatch(corner, box.width, box.height, shape, facecolor=fill, **edge))
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


def draw_both_ways(ax: Axes, points: Sequence[Point], style: str = "-") -> None:
    """An arrow of the convnet, upwards, and the deconvnet's, which goes back."""
    draw_path(ax, points, FORWARD, style=style)
    draw_path(ax, [(WIDTH - x, y) for x, y in reversed(points)], BACKWARD, style=style)


def write_both(ax: Axes, x: float, aside: float, y: float, text: str, **style: Any) -> None:
    """Beside a place of the convnet and its counterpart in the deconvnet."""
    for at, side in ((x, aside), (WIDTH - x, -aside)):
        ax.text(at + side, y, text, ha="left" if side > 0 else "right", color=MUTED, **style)


def _patch(path: Path, colour: str, head: str, style: str, zorder: float) -> FancyArrowPatch:
    props = {"color": colour, "linewidth": 1.1, "linestyle": style, "zorder": zorder}
    return FancyArrowPatch(path=path, arrowstyle=head, mutation_scale=8, **props)


def draw_plus(ax: Axes, x: float, y: float) -> None:
    """Where the signals of several consumers meet."""
    ax.add_patch(
        Circle((x, y), 0.06, facecolor="white", edgecolor=BACKWARD, linewidth=0.9, zorder=4)
    )
    for dx, dy in ((0.033, 0.0), (0.0, 0.033)):
        ax.plot([x - dx, x + dx], [y - dy, y + dy], color=BACKWARD, linewidth=0.9, zorder=5)


_SIDE = 3.15  # of the convnet, and of the deconvnet
_BOX, _BETWEEN = 2.2, 0.12  # the widest a box gets; between neighbours
_GAP = 0.34  # between ranks
_PAD = 0.065  # above and below a box's text
_PICTURE, _CAPTION = 1.0, 0.2
_HEADING = 0.27
_FILLS = {
    "convolution": "#d9e8f5",
    "linear": "#d9e8f5",
    "rectification": "#fbe3cb",
    "pooling": "#d6eee3",
}
_OTHER = "#ededed"


@dataclass(frozen=True)
class _Drawn:
    """A call, or maps that are given, and its counterpart."""

    texts: tuple[Text, Text]
    shape: tuple[int, ...]
    fill: str
    line: str
    link: tuple[str, str, str, str] | None = None


class LayerDrawing:
    """A diagram's boxes and arrows; `height` is what they need."""

    def __init__(self, result: Diagram) -> None:
        self._result = result
        self._given = len(result.sources)
        steps = [
            [i + self._given if i >= 0 else -1 - i for i in step.inputs] for step in result.steps
        ]
        self._inputs = [[] for _ in result.sources] + steps
        self._plan = arrange(self._inputs)
        self._lane = min(_SIDE / self._plan.width, _BOX + _BETWEEN)
        self._writer = Writer(self._lane - _BETWEEN)
        self._drawn = [*self._described()]
        self._place()

    def _described(self) -> Iterator[_Drawn]:
        write, name = self._writer.write, self._writer.name
        for source in self._result.sources:
            what = "maps below" if len(source.shape) == 3 else "features below"
            about = name(source.name), _times(source.shape)
            texts = write(what, *about), write("signal below", *about)
            yield _Drawn(texts, source.shape, "white", "--")
        for step in self._result.steps:
            texts = (
                write(step.kind, name(step.name), step.detail),
                write(step.back, step.back_detail),
            )
            fill = next((colour for part, colour in _FILLS.items() if part in step.kind), _OTHER)
            yield _Drawn(texts, step.shape, fill, "-", self._link(step.kind))

    def _link(self, kind: str) -> tuple[str, str, str, str] | None:
        """What the deconvnet has from a call: words, colour, arrow head and line."""
        if "max-pooling" in kind:
            return "switches", SWITCHES, "-|>", "-"
        if kind in ("convolution", "linear") and self._plan.width <= 1:
            what = "same filters" if kind == "convolution" else "same weights"
            return what, MUTED, "-", ":"
        return None

    def _place(self) -> None:
        ranks = max(self._plan.rank) + 1
        heights = [0.0] * ranks
        for rank, drawn in zip(self._plan.rank, self._drawn, strict=True):
            lines = max(text.lines for text in drawn.texts)
            heights[rank] = max(heights[rank], lines * LINE + 2 * _PAD)
        # Where nothing is left out, the pictures stand in the place of the maps below.
        self._whole = [source.calls for source in self._result.sources] == [0]
        if self._whole:
            heights[0] = _PICTURE
            bottom = _CAPTION
        else:
            bottom = _CAPTION + _PICTURE + _GAP
        self._bottoms = [bottom + sum(heights[:r]) + _GAP * r for r in range(ranks)]
        self._tops = [y + height for y, height in zip(self._bottoms, heights, strict=True)]
        width = self._lane - _BETWEEN
        self._boxes = [
            Box(self._x(place), self._bottoms[rank], width, heights[rank])
            for place, rank in zip(self._plan.place, self._plan.rank, strict=True)
        ]
        self._seed = self._tops[-1] + _GAP
        self.height = self._seed + 2 * LINE + 2 * _PAD + _HEADING

    def _x(self, place: float) -> float:
        return WIDTH - 0.05 - _SIDE / 2 + place * self._lane

    # -------------------------------------------------------------------------------- drawing

    def draw(self, ax: Axes, image: Array, projection: Array) -> None:
        """Draw everything; `image` and `projection` are pictures [H,W,3] in 0..1."""
        ax.axis("off")
        ax.set(xlim=(0, WIDTH), ylim=(0, self.height), aspect="equal")
        self._draw_pictures(ax, image, projection)
        if not self._whole:
            self._draw_left_out(ax)
        for (start, end), route in self._plan.routes.items():
            self._draw_arrow(ax, start, end, route)
        for index, box in enumerate(self._boxes):
            drawn = self._drawn[index]
            if index >= self._given or not self._whole:
                for own, text in zip((box, box.mirrored), drawn.texts, strict=True):
                    draw_box(ax, own, text, drawn.fill, self._writer.scale, drawn.line)
                if drawn.link:
                    draw_link(ax, box, *drawn.link)
            if index >= self._given or self._whole:
                self._draw_shape(ax, index, box, drawn.shape)
        self._draw_seed(ax)

    def _draw_shape(self, ax: Axes, index: int, box: Box, shape: Sequence[int]) -> None:
        """The shape of what leaves a box, beside its arrows."""
        bends = [
            self._x(route[1][0]) - box.x
            for (start, _), route in self._plan.routes.items()
            if start == index
        ]
        away = -1 if bends and min(bends) > 0.05 else 1  # on the side to which no arrow bends
        aside = 0.06 if len(bends) < 2 else 0.24
        style = {"fontsize": SMALL * self._writer.scale, "va": "bottom"}
        write_both(ax, box.x, away * aside, box.top + 0.02, _times(shape), **style)

    def _draw_arrow(
        self, ax: Axes, start: int, end: int, route: Sequence[tuple[float, int]]
    ) -> None:
        a, b = self._boxes[start], self._boxes[end]
        passing = [
            (self._x(place), y)
            for place, rank in route[1:-1]
            for y in (self._bottoms[rank], self._tops[rank])
        ]
        # Arrows that come from aside enter aside, so that they can be told apart.
        side = (passing[-1][0] if passing else a.x) - b.x
        entry = (b.x + float(np.clip(0.15 * side, -0.3 * b.width, 0.3 * b.width)), b.y)
        up = [(a.x, a.top), *passing, entry]
        if sum(start in inputs for inputs in self._inputs) == 1:
            draw_both_ways(ax, up)
            return
        draw_path(ax, up, FORWARD)
        down = [(WIDTH - x, y) for x, y in reversed(up)]
        x, top = down[-1]
        draw_path(ax, [*down[:-1], (x, top + 0.2)], BACKWARD, "-")
        draw_plus(ax, x, top + 0.2)
        draw_path(ax, [(x, top + 0.14), (x, top)], BACKWARD)

    def _draw_pictures(self, ax: Axes, image: Array, projection: Array) -> None:
        x, half = self._x(0.0), _PICTURE / 2
        cells = []
        for middle, shown, text in (
            (x, image, "network input"),
            (WIDTH - x, projection, "projection"),
        ):
            place = (middle - half, _CAPTION, _PICTURE, _PICTURE)
            cells.append(ax.inset_axes(place, transform=ax.transData))
            show_image(cells[-1], shown)
            ax.text(middle, _CAPTION - 0.04, text, ha="center", va="top", fontsize=7.5)
        mark_support(cells[1], projection, BACKWARD, cells[0])

    def _draw_left_out(self, ax: Axes) -> None:
        x, y = self._x(0.0), _CAPTION + _PICTURE
        for source, box in zip(self._result.sources, self._boxes, strict=False):
            draw_both_ways(ax, [(x, y), (box.x, box.y)], "--")
            if self._given == 1:
                calls = f"{source.calls} call{'s' * (source.calls != 1)} not drawn"
                write_both(ax, x, 0.07, y + _GAP / 2, calls, va="center", fontsize=SMALL)

    def _draw_seed(self, ax: Axes) -> None:
        top = self._boxes[-1]
        draw_both_ways(ax, [(top.x, top.top), (top.x, self._seed)])
        channel, row, column = self._result.unit
        place = f"of map {channel} at ({row}, {column})"
        if len(self._result.steps[-1].shape) == 1:
            place = f"of unit {channel}"
        text = Text(
            f"the strongest activation: {number(self._result.activation)}, {place}",
            "goes down as the signal, everything else of the layer is set to zero",
        )
        wide = Box(WIDTH / 2, self._seed, WIDTH - 1.4, 2 * LINE + 2 * _PAD)
        draw_box(ax, wide, text, "#fdf6d8")
        style = {"va": "bottom", "ha": "center", "fontweight": "bold", "fontsize": 8.5}
        y = wide.top + 0.07
        ax.text(self._x(0.0), y, "convnet layer, upwards", color=FORWARD, **style)
        ax.text(WIDTH - self._x(0.0), y, "deconvnet layer, downwards", color=BACKWARD, **style)


def _times(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
