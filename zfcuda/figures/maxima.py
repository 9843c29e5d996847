"""The strongest activations of some maps, projected, beside what they looked at (Zeiler & Fergus
2014, figure 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from zfcuda.figures import style
from zfcuda.figures.projection import layer_colour
from zfcuda.figures.style import MUTED, NO_DATA, Array, draws, new_figure, to_array
from zfcuda.results.maxima import TopActivations

PAGE = 7.2  # inches, the width of a page's text
SHARP = 250  # dots an inch: cells are small
_CAPTION, _HEADING, _NOTE = 0.19, 0.30, 0.30  # inches
_SMALLEST, _LARGEST = 36, 64  # pixels of a cell
_DOTS = 1.5  # of the figure for a pixel of a cell, gaps included


def reduced(pictures: Any) -> Array:
    """Pictures [..., h, w] of at most 64 pixels a side: means over squares.

    A signal's percentiles should be those of what is seen: a late layer's projection is so fine
    that it would vanish if it were stretched first and made small afterwards.
    """
    pictures = to_array(pictures)
    *leading, height, width = pictures.shape
    factor = max(1, -(-max(height, width) // _LARGEST))
    if factor == 1:
        return pictures
    rows, columns = -(-height // factor), -(-width // factor)
    margins = [(0, 0)] * len(leading)
    # Squares that hang over the edge are completed from the edge.
    margins += [(0, rows * factor - height), (0, columns * factor - width)]
    whole = np.pad(pictures, margins, mode="edge")
    return whole.reshape(*leading, rows, factor, columns, factor).mean((-3, -1))


def displayed(pictures: Any, display: Callable[[Any], Array]) -> Array:
    """Raw pictures [M,k,C,h,w] as ``display`` shows them, reduced: [M,k,h,w,3]."""
    small = reduced(pictures)
    maps, k, *rest = small.shape
    shown = display(small.reshape(maps * k, *rest))
    return shown.reshape(maps, k, *shown.shape[1:])


def given_or_own(shown: Any, own: Any, display: Callable[[Any], Array]) -> Array:
    """Display arrays [M,k,h,w,3] in 0..1 as they were given (uint8 as shares of 255); where there
    are none, a result's own pictures as ``display`` shows them."""
    if shown is None:
        return displayed(own, display)
    shown = to_array(shown)
    return shown / 255 if shown.dtype == np.uint8 else shown


def require_one_size(layer: str, signals: Array, seen: Array) -> None:
    """Raises:
    ValueError: projections [M,k,h,w,3] and patches [...,h,w,3] that do not fit beside each other.
    """
    sizes = [f"{one.shape[-3]}×{one.shape[-2]}" for one in (signals, seen)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{layer}: projections of {sizes[0]} pixels beside patches of {sizes[1]}: expected one "
            "size"
        )


@dataclass(frozen=True)
class Grid:
    """Cells of one size with lines around them, in pixels of the picture that they form.

    Small cells are enlarged by a whole ``factor``, so that the lines are thin beside them.
    """

    rows: int
    columns: int
    height: int
    width: int
    factor: int
    gap: int

    @classmethod
    def of(cls, count: int, columns: int, height: int, width: int) -> Grid:
        """For so many pictures [height,width,3], row by row."""
        factor = max(1, -(-_SMALLEST // max(height, width, 1)))
        height, width = height * factor, width * factor
        gap = max(1, round(max(height, width) / 16))
        return cls(-(-count // columns), columns, height, width, factor, gap)

    def corner(self, index: int) -> tuple[int, int]:
        """(top, left) of a cell."""
        row, column = divmod(index, self.columns)
        return (
            self.gap + row * (self.height + self.gap),
            self.gap + column * (self.width + self.gap),
        )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all."""
        return self.corner(self.rows * self.columns)[0], self.corner(0)[1] + self.columns * (
            self.width + self.gap
        )


def mosaic(cells: Sequence[Array | None], columns: int, line: str = "white") -> tuple[Array, Grid]:
    """Pictures [h,w,3] of one size row by row, with lines around them; None is left grey."""
    shapes = [cell.shape[:2] for cell in cells if cell is not None]
    grid = Grid.of(len(cells), columns, *(shapes[0] if shapes else (1, 1)))
    canvas = np.empty((*grid.size, 3))
    canvas[:] = to_rgb(line)
    for index, cell in enumerate(cells):
        top, left = grid.corner(index)
        shown = to_rgb(NO_DATA)
        if cell is not None:
            shown = cell.repeat(grid.factor, 0).repeat(grid.factor, 1)
        canvas[top : top + grid.height, left : left + grid.width] = shown
    return canvas, grid


def sheet(
    signals: Array,
    seen: Array,
    there: Sequence[bool],
    columns: int,
    line: str = NO_DATA,
    gap: int = 1,
) -> Array:
    """A map's projections [k,h,w,3] and, beside them, the patches of the images: cells that are
    `there`, others grey, with at least so many pixels between the halves."""
    halves = [
        mosaic([c if ok else None for c, ok in zip(cells, there, strict=True)], columns, colour)[0]
        for cells, colour in ((signals, "white"), (seen, line))  # images may be white themselves
    ]
    between = np.ones((len(halves[0]), max(gap, halves[0].shape[1] // 24), 3))
    return np.concatenate([halves[0], between, halves[1]], 1)


def fired(images: Array, values: Array) -> Array:
    """Which places of a ranking hold an activation: where a map never fires, images that it is zero
    for rank as its strongest. (Values below zero are those of maps without a ReLU.)"""
    return (images >= 0) & (values != 0)


def heading(part: Any, layer: str, index: int, text: str) -> None:
    """A layer's name in its colour, and what else is to be said, above a part of a figure."""
    title = f"{style.fit_name(layer, 40)}   {text}"
    part.suptitle(title, x=0.01, ha="left", fontsize=8.5, color=layer_colour(index))


@draws(TopActivations)
def top_activations(
    result: TopActivations,
    projections: Mapping[str, Array] | None = None,
    patches: Mapping[str, Array] | None = None,
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Layer by layer a block for every projected map: the projections of its strongest activations,
    strongest first, row by row, and beside them the same windows of the images.

    `projections` and `patches` are display arrays ``[M,k,h,w,3]`` in 0..1 by layer; without them
    the result's own are stretched, each projection on its own with zero at mid grey. `columns`
    blocks stand side by side; by default as many as leave the finest signals visible, at most 5.
    """
    layers = [layer for layer in result.layers if len(result.channels[layer])]
    sizes = [to_array(result.projections[layer]).shape[-2:] for layer in layers]
    counts = [len(result.channels[layer]) for layer in layers]
    across = [
        columns or _columns(count, result.k, max(size))
        for count, size in zip(counts, sizes, strict=True)
    ]
    rows = [-(-count // side_by_side) for count, side_by_side in zip(counts, across, strict=True)]
    shape = -(-result.k // _across(result.k)) / max(1, _across(result.k))  # of half a block
    heights = [
        _HEADING
        + down * (_CAPTION + (PAGE - 0.2) / wide / 2 * shape * max(1, height) / max(1, width))
        for down, wide, (height, width) in zip(rows, across, sizes, strict=True)
    ]
    figure = new_figure(PAGE, _NOTE + sum(heights) + (0.3 if title else 0), title, SHARP)
    if not layers:
        return figure
    parts = figure.subfigures(
        len(layers) + 1, 1, height_ratios=[*heights, _NOTE], squeeze=False
    ).flat
    for index, (layer, part) in enumerate(zip(layers, parts, strict=False)):
        height, width = sizes[index]
        heading(part, layer, index, f"windows of {height}×{width} px")
        given = [None if some is None else some[layer] for some in (projections, patches)]
        signals = given_or_own(given[0], result.projections[layer], style.display_signal)
        seen = given_or_own(given[1], result.patches[layer], style.display_images)
        require_one_size(layer, signals, seen)
        axes = part.subplots(rows[index], across[index], squeeze=False).flat
        for row, ax in enumerate(axes):
            if row < len(signals):
                _draw_block(ax, result, layer, row, signals[row], seen[row])
            else:
                ax.axis("off")
    note = (
        f"Left of each block: a map's {result.k} strongest activations, at most one an image, each "
        "projected on its own (grey: no signal). Right: the images there.\nBelow: the map, the "
        "strongest and the weakest of these activations."
    )
    parts[-1].text(0.01, 0.5, note, va="center", fontsize=6.5, color=MUTED)
    return figure


def _across(k: int) -> int:
    """Cells side by side in half a block: up to three in a row, more as a square."""
    return k if k <= 3 else int(np.ceil(np.sqrt(k)))


def _columns(count: int, k: int, side: int) -> int:
    """How many of `count` blocks stand side by side, in rows of about one length.

    A pixel of a window becomes more than one of the figure: a late layer's signal is as fine as its
    pixels, and would be averaged away.
    """
    cells = 2 * _across(k)
    needed = cells * min(max(side, 1), _LARGEST) * _DOTS
    most = int(np.clip(PAGE * SHARP / needed, 1, 5))
    return -(-count // -(-count // most))


def _draw_block(
    ax: Axes, result: TopActivations, layer: str, row: int, signals: Array, seen: Array
) -> None:
    channel = int(result.channels[layer][row])
    numbers = to_array(result.images[layer])[channel]
    there = fired(numbers, to_array(result.values[layer])[channel])
    values = to_array(result.values[layer])[channel][there]
    nothing = "never fires" if (numbers >= 0).any() else "nothing"
    span = (
        f"  ·  {style.number(values[0])} – {style.number(values[-1])}"
        if len(values)
        else f"  ·  {nothing}"
    )
    style.show_image(ax, sheet(signals, seen, there, _across(len(there))))
    ax.set_xlabel(f"map {channel}{span}", labelpad=2, fontsize=6, color=MUTED)
