"""The diagram of a convnet layer and its deconvnet layer, to scale in inches.

The convnet is on the right and goes up, the deconvnet is its mirror image on the left and goes
down. Everything is placed when the drawing is made; `draw` puts it on axes of that size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from zfcuda.figures._layer_pieces import (
    BACKWARD,
    FORWARD,
    LINE,
    SWITCHES,
    WIDTH,
    Box,
    draw_box,
    draw_link,
    draw_path,
    draw_plus,
)
from zfcuda.figures._layer_text import SMALL, Text, Writer
from zfcuda.figures._ranks import arrange
from zfcuda.figures._style import MUTED, Array, number, show_image
from zfcuda.figures.projection import magnify, outline, support
from zfcuda.results.diagram import Diagram

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
        self._texts = self._written()
        self._place()

    def _written(self) -> list[tuple[Text, Text]]:
        """Of each box, and of its counterpart."""
        write, name = self._writer.write, self._writer.name
        below = []
        for source in self._result.sources:
            what = "maps below" if len(source.shape) == 3 else "features below"
            about = name(source.name), _times(source.shape)
            below.append((write(what, *about), write("signal below", *about)))
        return below + [
            (write(step.kind, name(step.name), step.detail), write(step.back, step.back_detail))
            for step in self._result.steps
        ]

    def _place(self) -> None:
        ranks = max(self._plan.rank) + 1
        heights = [0.0] * ranks
        for rank, pair in zip(self._plan.rank, self._texts, strict=True):
            lines = max(text.lines for text in pair)
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
            if index >= self._given or not self._whole:
                self._draw_boxes(ax, index, box)
            if index >= self._given:
                self._draw_shape(ax, index, box, self._result.steps[index - self._given].shape)
            elif self._whole:
                self._draw_shape(ax, index, box, self._result.sources[index].shape)
        self._draw_seed(ax)

    def _draw_boxes(self, ax: Axes, index: int, box: Box) -> None:
        """A call and its counterpart, and what the one has from the other."""
        forward, backward = self._texts[index]
        if index < self._given:
            for own, text in ((box, forward), (box.mirrored, backward)):
                draw_box(ax, own, text, "white", self._writer.scale, "--")
            return
        kind = self._result.steps[index - self._given].kind
        fill = next((colour for part, colour in _FILLS.items() if part in kind), _OTHER)
        draw_box(ax, box, forward, fill, self._writer.scale)
        draw_box(ax, box.mirrored, backward, fill, self._writer.scale)
        if "max-pooling" in kind:
            draw_link(ax, box, "switches", SWITCHES, "-|>", "-")
        elif kind in ("convolution", "linear") and self._plan.width <= 1:
            what = "same filters" if kind == "convolution" else "same weights"
            draw_link(ax, box, what, MUTED, "-", ":")

    def _draw_shape(self, ax: Axes, index: int, box: Box, shape: Sequence[int]) -> None:
        """The shape of what leaves a box, beside its arrows."""
        bends = [
            self._x(route[1][0]) - box.x
            for (start, _), route in self._plan.routes.items()
            if start == index
        ]
        away = -1 if bends and min(bends) > 0.05 else 1  # on the side to which no arrow bends
        aside = 0.06 if len(bends) < 2 else 0.24
        style = {"fontsize": SMALL * self._writer.scale, "color": MUTED, "va": "bottom"}
        for x, side in ((box.x, away), (WIDTH - box.x, -away)):
            align = "left" if side > 0 else "right"
            ax.text(x + side * aside, box.top + 0.02, _times(shape), ha=align, **style)

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
        draw_path(ax, [(a.x, a.top), *passing, entry], FORWARD)
        down = [(WIDTH - x, y) for x, y in (entry, *reversed(passing), (a.x, a.top))]
        if sum(start in inputs for inputs in self._inputs) == 1:
            draw_path(ax, down, BACKWARD)
            return
        x, top = down[-1]
        draw_path(ax, [*down[:-1], (x, top + 0.2)], BACKWARD, "-")
        draw_plus(ax, x, top + 0.2)
        draw_path(ax, [(x, top + 0.14), (x, top)], BACKWARD)

    def _draw_pictures(self, ax: Axes, image: Array, projection: Array) -> None:
        """The image where the convnet begins and the projection where the deconvnet ends."""
        x, half = self._x(0.0), _PICTURE / 2
        square = support(projection)
        for middle, shown, text in (
            (x, image, "network input"),
            (WIDTH - x, projection, "projection"),
        ):
            place = (middle - half, _CAPTION, _PICTURE, _PICTURE)
            cell = ax.inset_axes(place, transform=ax.transData)
            show_image(cell, shown)
            ax.text(middle, _CAPTION - 0.04, text, ha="center", va="top", fontsize=7.5)
            if square is not None:
                outline(cell, square, BACKWARD)
                if shown is projection:
                    magnify(cell, shown, None, square)

    def _draw_left_out(self, ax: Axes) -> None:
        """Between the pictures and the maps below: how many calls are not drawn."""
        x, y = self._x(0.0), _CAPTION + _PICTURE
        for source, box in zip(self._result.sources, self._boxes, strict=False):
            up = [(x, y), (box.x, box.y)]
            draw_path(ax, up, FORWARD, style="--")
            draw_path(ax, [(WIDTH - a, b) for a, b in reversed(up)], BACKWARD, style="--")
            if self._given == 1:
                calls = f"{source.calls} call{'s' * (source.calls != 1)} not drawn"
                style = {"va": "center", "fontsize": SMALL, "color": MUTED}
                ax.text(x + 0.07, y + _GAP / 2, calls, ha="left", **style)
                ax.text(WIDTH - x - 0.07, y + _GAP / 2, calls, ha="right", **style)

    def _draw_seed(self, ax: Axes) -> None:
        """At the top: the convnet ends and the deconvnet begins."""
        top = self._boxes[-1]
        draw_path(ax, [(top.x, top.top), (top.x, self._seed)], FORWARD)
        draw_path(ax, [(WIDTH - top.x, self._seed), (WIDTH - top.x, top.top)], BACKWARD)
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
