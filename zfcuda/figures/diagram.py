"""A convnet layer with its attached deconvnet layer (paper, figure 1; the talk's figures 1, 2)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.layer_drawing import SWITCHES, WIDTH, LayerDrawing
from zfcuda.figures.style import PALETTE, Array, draws, new_figure, to_array
from zfcuda.results.diagram import Diagram, SwitchExample

_WINDOWS = (PALETTE[0], PALETTE[5], PALETTE[3], "#8a6d00")  # dark enough for numbers on white
_READABLE = 7  # cells a side, of which the numbers can be read


@draws(Diagram)
def diagram(
    result: Diagram, preprocessing: Preprocessing | None = None, title: str | None = None
) -> Figure:
    """Right, upwards, what the model computes; left, downwards, what the deconvnet does in the
    place of each call; at the bottom the image, and the projection of the strongest unit.

    Below, neighbouring windows of the topmost max-pooling on the real image: the values, the maxima
    with their switches, and where unpooling puts them. For `preprocessing` see
    :mod:`zfcuda.figures`.
    """
    drawing = LayerDrawing(result)
    heights = [drawing.height, *([2.35] if result.switch else [])]
    figure = new_figure(WIDTH + 0.12, sum(heights) + 0.15 + 0.3 * bool(title), title)
    specs = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    (image,) = style.input_pictures(result.image[None], preprocessing)
    signals = style.signal_pictures({result.layer: result.projection[None]}, preprocessing)
    drawing.draw(figure.add_subplot(specs[0]), image, signals[result.layer][0])
    if result.switch:
        _draw_switches(specs[1], result.switch)
    return figure


# -------------------------------------------------------------------------------- the switches


def _draw_switches(spec: SubplotSpec, example: SwitchExample) -> None:
    figure = spec.get_gridspec().figure
    before, pooled, after = (figure.add_subplot(cell) for cell in spec.subgridspec(1, 3))
    values, unpooled = to_array(example.values), to_array(example.unpooled)
    bound = max(float(np.nanmax(np.abs(values), initial=0)), float(np.nanmax(unpooled, initial=0)))
    power = _power(bound)
    _draw_cells(before, values, bound, power)
    _draw_cells(after, unpooled, bound, power)
    for ax in (before, after):
        _outline_windows(ax, example)
    _draw_maxima(pooled, example, bound, power)
    top, left = example.origin
    bottom, right = top + values.shape[0] - 1, left + values.shape[1] - 1
    size = "×".join(map(str, example.kernel))
    stride = "×".join(map(str, dict.fromkeys(example.stride)))
    also = ", rectified" if example.rectified else ""
    unit = f" (×1e{power})" if power else ""
    place = f"rows {top}–{bottom}, columns {left}–{right}{unit}"
    headings = (
        f"map {example.channel} before {style.fit_name(example.name, 14)}",
        "maxima and switches",
        "unpooled by the switches",
    )
    captions = (
        f"{place}\n{size} windows, stride {stride}{also}",
        "switch: the maximum's place in its\nwindow, row by row from 0",
        "all else is 0; where windows\nshare a place, their sum",
    )
    for ax, heading, caption in zip((before, pooled, after), headings, captions, strict=True):
        ax.set_title(heading, fontsize=8)
        ax.set_xlabel(caption, fontsize=7, labelpad=3)
    for ax, word in ((before, "pool"), (pooled, "unpool")):
        props = {"transform": ax.transAxes, "ha": "center", "clip_on": False}
        ax.text(1.16, 0.5, "→", va="center", fontsize=13, color=SWITCHES, **props)
        ax.text(1.16, 0.6, word, va="bottom", fontsize=7, color=SWITCHES, **props)


def _power(bound: float) -> int:
    """The power of ten by which numbers become short; 0 where they are."""
    power = int(np.floor(np.log10(bound))) if bound > 0 and np.isfinite(bound) else 0
    return 0 if -2 < power < 4 else power


def _draw_cells(ax: Axes, values: Array, bound: float, power: int) -> None:
    lines = {"edgecolor": "#dddddd", "linewidth": 0.5}
    for (row, column), value in np.ndenumerate(values):
        box = (row, column, row + 1, column + 1)
        if not np.isfinite(value):
            style.add_box(ax, box, facecolor="white", hatch="/////", **lines)
            continue
        # Light enough for the numbers.
        style.add_box(ax, box, facecolor=_shade(value, bound), **lines)
        if max(values.shape) <= _READABLE and value != 0:
            text = _short(value / 10.0**power)
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, zorder=4)
    _frame(ax, *values.shape)


def _shade(value: float, bound: float) -> tuple[float, ...]:
    return mpl.colormaps["Blues"](0.5 * max(value, 0.0) / (bound or 1.0))


def _number_and_line(example: SwitchExample, window: tuple[int, int]) -> tuple[int, dict[str, Any]]:
    """A window's number, row by row, and its colour; the strongest unit's is bold."""
    index = window[0] * example.pooled.shape[1] + window[1]
    width = 1.8 if window == example.unit else 1.0
    return index, {"edgecolor": _WINDOWS[index % len(_WINDOWS)], "linewidth": width}


def _outline_windows(ax: Axes, example: SwitchExample) -> None:
    """Each window in its colour, and in it the maximum's place; the strongest unit's last."""
    height, width = example.kernel
    for window in sorted(
        np.ndindex(*example.pooled.shape), key=lambda window: window == example.unit
    ):
        index, line = _number_and_line(example, window)
        props = {"fill": False, "zorder": 3, **line}
        y, x = window[0] * example.stride[0], window[1] * example.stride[1]
        inset = 0.05 + 0.05 * index  # overlapping windows keep their own lines
        box = (y + inset, x + inset, y + height - inset, x + width - inset)
        style.add_box(ax, box, **props)
        down, across = divmod(int(example.switches[window]), width)
        if down < height:  # else the window has no maximum
            y, x, inset = y + down, x + across, 0.1 + 0.03 * index
            style.add_box(ax, (y + inset, x + inset, y + 1 - inset, x + 1 - inset), **props)


def _draw_maxima(ax: Axes, example: SwitchExample, bound: float, power: int) -> None:
    pooled = to_array(example.pooled)
    for (row, column), value in np.ndenumerate(pooled):
        _, line = _number_and_line(example, (row, column))
        box = (row + 0.04, column + 0.04, row + 0.96, column + 0.96)
        style.add_box(ax, box, facecolor=_shade(value, bound), **line)
        weight = "bold" if (row, column) == example.unit else "normal"
        props = {"ha": "center", "va": "center", "fontweight": weight}
        ax.text(column, row - 0.08, _short(value / 10.0**power), fontsize=9, **props)
        switch = f"switch {int(example.switches[row, column])}"
        ax.text(column, row + 0.28, switch, fontsize=6.5, **props)
    _frame(ax, *pooled.shape)


def _frame(ax: Axes, rows: int, columns: int) -> None:
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), xticks=[], yticks=[])
    ax.set_aspect("equal")
    ax.spines[:].set_visible(False)


def _short(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "−")
