"""A convnet layer with its attached deconvnet layer (paper, figure 1; the talk's figures 1, 2)."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.patches import Rectangle

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
    with their switches, and where unpooling puts them. `preprocessing` is the network's
    (:func:`zfcuda.models.preprocessing`); with it the pictures have true colours; without it the
    network's three channels stand for red, green and blue, the image stretched to 0..1 (of other
    than three channels, grey).
    """
    drawing = LayerDrawing(result)
    heights = [drawing.height, *([2.35] if result.switch else [])]
    figure = new_figure(WIDTH + 0.12, sum(heights) + 0.15 + 0.3 * bool(title), title)
    specs = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    drawing.draw(figure.add_subplot(specs[0]), *_pictures(result, preprocessing))
    if result.switch:
        _draw_switches(specs[1], result.switch)
    return figure


def _pictures(result: Diagram, preprocessing: Preprocessing | None) -> tuple[Array, Array]:
    image, projection = result.image[None], result.projection[None]
    signal = preprocessing.signal_to_display if preprocessing else style.display_signal
    return style.input_pictures(image, preprocessing)[0], signal(projection)[0]


# -------------------------------------------------------------------------------- the switches


def _draw_switches(spec: SubplotSpec, example: SwitchExample) -> None:
    """Three panels: before pooling, pooled, unpooled."""
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

    name = style.fit_name(example.name, 14)
    before.set_title(f"map {example.channel} before {name}", fontsize=8)
    pooled.set_title("maxima and switches", fontsize=8)
    after.set_title("unpooled by the switches", fontsize=8)
    top, left = example.origin
    bottom, right = top + values.shape[0] - 1, left + values.shape[1] - 1
    size, (down, across) = "×".join(map(str, example.kernel)), example.stride
    stride = str(down) if down == across else f"{down}×{across}"
    also = ", rectified" if example.rectified else ""
    unit = f" (×1e{power})" if power else ""
    captions = (
        f"rows {top}–{bottom}, columns {left}–{right}{unit}\n{size} windows, stride {stride}{also}",
        "switch: the maximum's place in its\nwindow, row by row from 0",
        "all else is 0; where windows\nshare a place, their sum",
    )
    for ax, caption in zip((before, pooled, after), captions, strict=True):
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
    """Numbers in shaded cells; zeros are left empty, padding is hatched."""
    rows, columns = values.shape
    lines = {"edgecolor": "#dddddd", "linewidth": 0.5}
    for row, column in np.ndindex(rows, columns):
        value, corner = values[row, column], (column - 0.5, row - 0.5)
        if not np.isfinite(value):
            ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", hatch="/////", **lines))
            continue
        # Light enough for the numbers.
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=_shade(value, bound), **lines))
        if max(rows, columns) <= _READABLE and value != 0:
            text = _short(value / 10.0**power)
            ax.text(column, row, text, ha="center", va="center", fontsize=6.5, zorder=4)
    _frame(ax, rows, columns)


def _shade(value: float, bound: float) -> tuple[float, ...]:
    return mpl.colormaps["Blues"](0.5 * max(value, 0.0) / (bound or 1.0))


def _outline_windows(ax: Axes, example: SwitchExample) -> None:
    """Each window in its colour, and in it the maximum's place; the strongest unit's last, bold."""
    windows = [*np.ndindex(*example.pooled.shape)]
    windows.sort(key=lambda window: window == example.unit)
    for row, column in windows:
        index = row * example.pooled.shape[1] + column
        colour, bold = _WINDOWS[index % len(_WINDOWS)], (row, column) == example.unit
        top, left = row * example.stride[0], column * example.stride[1]
        inset = 0.05 + 0.05 * index  # overlapping windows keep their own lines
        corner = (left - 0.5 + inset, top - 0.5 + inset)
        sides = (example.kernel[1] - 2 * inset, example.kernel[0] - 2 * inset)
        props = {"fill": False, "edgecolor": colour, "linewidth": 1.8 if bold else 1.0, "zorder": 3}
        ax.add_patch(Rectangle(corner, *sides, **props))
        tap = divmod(int(example.switches[row, column]), example.kernel[1])
        if tap[0] < example.kernel[0]:  # else the window has no maximum
            inset = 0.1 + 0.03 * index
            place = (left + tap[1] - 0.5 + inset, top + tap[0] - 0.5 + inset)
            ax.add_patch(Rectangle(place, 1 - 2 * inset, 1 - 2 * inset, **props))


def _draw_maxima(ax: Axes, example: SwitchExample, bound: float, power: int) -> None:
    """The pooled map's cells, each with its switch, framed in its window's colour."""
    pooled = to_array(example.pooled)
    rows, columns = pooled.shape
    for row, column in np.ndindex(rows, columns):
        index, value = row * columns + column, pooled[row, column]
        bold = (row, column) == example.unit
        ax.add_patch(
            Rectangle(
                (column - 0.46, row - 0.46),
                0.92,
                0.92,
                facecolor=_shade(value, bound),
                edgecolor=_WINDOWS[index % len(_WINDOWS)],
                linewidth=1.8 if bold else 1.0,
            )
        )
        props = {"ha": "center", "fontweight": "bold" if bold else "normal"}
        text = _short(value / 10.0**power)
        ax.text(column, row - 0.08, text, va="center", fontsize=9, **props)
        switch = int(example.switches[row, column])
        ax.text(column, row + 0.28, f"switch {switch}", va="center", fontsize=6.5, **props)
    _frame(ax, rows, columns)


def _frame(ax: Axes, rows: int, columns: int) -> None:
    ax.set(xlim=(-0.6, columns - 0.4), ylim=(rows - 0.4, -0.6), xticks=[], yticks=[])
    ax.set_aspect("equal")
    ax.spines[:].set_visible(False)


def _short(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "−")
