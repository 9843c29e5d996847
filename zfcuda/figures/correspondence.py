"""Correspondence between parts of different objects (paper, table 1 and figure 8)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zfcuda.figures import style
from zfcuda.figures.style import MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.correspondence import CorrespondenceResult

_SHOWN = 5  # images a row, as many as the paper has
# Inches. The thumbnails must stand beside their rows of the panels, so that everything is placed.
_NAME, _THUMB, _ROW, _PLOT, _NUMBERS, _GAP = 1.12, 0.46, 0.52, 1.05, 0.88, 0.12
_TITLE, _HEAD, _FOOT = 0.3, 0.36, 0.52


@draws(CorrespondenceResult)
def correspondence(
    result: CorrespondenceResult,
    images: Array | None = None,
    title: str | None = None,
) -> Figure:
    """Table 1 as a table with marks: a row for each hidden part, a column for each layer.

    A dot is the mean share of signs that differ over pairs of images, the line one standard
    deviation of the pairs on either side, the small strokes are the means of the single draws of a
    random place. `images` ``[N,H,W,3]`` in 0..1 are the inputs; five of them are shown with the
    part hidden.
    """
    rows, shown = len(result.parts), 0 if images is None else min(_SHOWN, len(images))
    top = _HEAD + _TITLE * bool(title)
    left = _NAME + shown * _THUMB + _GAP * bool(shown)
    width = left + len(result.layers) * (_PLOT + _NUMBERS + _GAP) + 0.05
    height = top + rows * _ROW + _FOOT
    figure = new_figure(width, height, title)
    figure.set_layout_engine("none")

    def place(x: float, y: float, w: float, h: float) -> Axes:
        """Axes at inches from the upper left corner."""
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    names = place(0, top, _NAME, rows * _ROW)
    names.axis("off")
    names.set(xlim=(0, 1), ylim=(rows - 0.5, -0.5))
    for row, part in enumerate(result.parts):
        weight = "normal" if part in result.controls else "bold"
        names.text(0.08, row, fit(part, 15, 3), va="center", fontweight=weight)
    if shown:
        pictures = style.display_images(images)[:shown]
        for row, part in enumerate(result.parts):
            for column, picture in enumerate(pictures):
                y = top + row * _ROW + (_ROW - _THUMB) / 2
                ax = place(_NAME + column * _THUMB, y, _THUMB - 0.03, _THUMB - 0.03)
                style.show_image(ax, picture)
                hidden = to_array(result.boxes[part])[0, column]
                box = style.box_on(picture, hidden, *result.image_size)
                style.add_box(ax, box, facecolor="#808080", edgecolor="white", linewidth=0.6)
    for column, layer in enumerate(result.layers):
        x = left + column * (_PLOT + _NUMBERS + _GAP)
        _draw_layer(place(x, top, _PLOT, rows * _ROW), result, layer)
    return figure


def _draw_layer(ax: Axes, result: CorrespondenceResult, layer: str) -> None:
    largest = 0.0
    for row, part in enumerate(result.parts):
        mean, std = result.mean(layer, part), result.std(layer, part)
        draws = to_array(result.pairs(layer, part)).mean(1)
        control = part in result.controls
        colour = PALETTE[5] if control else PALETTE[0]
        spread = 0.0 if np.isnan(std) else std
        ax.plot([mean - spread, mean + spread], [row, row], color=colour, linewidth=1.2)
        marker = "D" if control else "o"
        ax.plot(mean, row, marker, color=colour, markersize=4 if control else 5)
        if len(draws) > 1:
            ax.plot(draws, np.full(len(draws), row + 0.27), "|", color=MUTED, markersize=4)
        largest = max(largest, mean + spread, *draws)
        style.beside_row(ax, _PLOT + 5 / 72, row, f"{mean:.4f} ± {std:.4f}")
        if row:
            ax.axhline(row - 0.5, color="#e6e6e6", linewidth=0.6, zorder=0)
    ax.set(xlim=(0, largest * 1.06 or 1), ylim=(len(result.parts) - 0.5, -0.5), yticks=[])
    ax.spines.left.set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.set_xlabel("signs that differ", fontsize=7.5)
    elements = f"{result.elements[layer]:,}".replace(",", "\N{THIN SPACE}")
    ax.set_title(style.fit_name(layer, 22), loc="left", fontweight="bold", fontsize=8.5, pad=15)
    ax.text(0, 1.02, f"{elements} elements", transform=ax.transAxes, fontsize=7, color=MUTED)
