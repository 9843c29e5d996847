"""The strongest activations of some maps, projected, beside what they looked at, and how they come
to be during training (Zeiler & Fergus 2014, figures 2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure

from zfcuda.figures import style
from zfcuda.figures.projection import layer_colour
from zfcuda.figures.style import MUTED, NO_DATA, Array, draws, fit, new_figure, to_array
from zfcuda.results.maxima import EvolutionResult, TopActivations

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
    margins = [*[(0, 0)] * len(leading), (0, -height % factor), (0, -width % factor)]
    whole = np.pad(pictures, margins, mode="edge")  # squares that hang over are completed
    rows, columns = (side // factor for side in whole.shape[-2:])
    return whole.reshape(*leading, rows, factor, columns, factor).mean((-3, -1))


def displayed(pictures: Any, display: Callable[[Any], Array]) -> Array:
    """Raw pictures [M,k,C,h,w] as ``display`` shows tensors, reduced: [M,k,h,w,3]."""
    small = torch.from_numpy(reduced(pictures))
    maps, k, *rest = small.shape
    shown = display(small.reshape(maps * k, *rest))
    return shown.reshape(maps, k, *shown.shape[1:])


def given_or_own(
    given: Mapping[str, Any] | None,
    own: Mapping[str, Any],
    layer: str,
    display: Callable[[Any], Array],
    part: slice = slice(None),
) -> Array:
    """A layer's display arrays [M,k,h,w,3] in 0..1 as they were given (uint8 as shares of 255);
    where there are none, a result's own pictures as ``display`` shows them; or a part of M."""
    if given is None:
        return displayed(own[layer][part], display)
    shown = to_array(given[layer][part])
    return shown / 255 if shown.dtype == np.uint8 else shown


def _both_shown(
    result: TopActivations | EvolutionResult,
    layer: str,
    projections: Mapping[str, Array] | None,
    patches: Mapping[str, Array] | None,
    part: slice = slice(None),
) -> tuple[Array, Array]:
    """A layer's projections and a part of its patches, [M,k,h,w,3].

    Raises:
        ValueError: they do not fit beside each other.
    """
    signals = given_or_own(projections, result.projections, layer, style.display_signal)
    seen = given_or_own(patches, result.patches, layer, style.display_images, part)
    sizes = [f"{one.shape[-3]}×{one.shape[-2]}" for one in (signals, seen)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{layer}: projections of {sizes[0]} pixels beside patches of {sizes[1]}: expected one "
            "size"
        )
    return signals, seen


@dataclass(frozen=True)
class Grid:
    """Cells of one size with lines around them, in pixels of the picture that they form."""

    columns: int
    height: int
    width: int
    gap: int

    def corner(self, index: int) -> tuple[int, int]:
        """(top, left) of a cell, of which they are counted row by row."""
        row, column = divmod(index, self.columns)
        return (
            self.gap + row * (self.height + self.gap),
            self.gap + column * (self.width + self.gap),
        )


def mosaic(cells: Sequence[Array | None], columns: int, line: str = "white") -> tuple[Array, Grid]:
    """Pictures [h,w,3] of one size row by row, with lines around them; None is left grey. Small
    ones are enlarged by a whole factor, so that the lines are thin beside them."""
    height, width = next((cell.shape[:2] for cell in cells if cell is not None), (1, 1))
    factor = max(1, -(-_SMALLEST // max(height, width, 1)))
    gap = max(1, round(max(height, width) * factor / 16))
    grid = Grid(columns, height * factor, width * factor, gap)
    rows = -(-len(cells) // columns)
    size = (gap + rows * (grid.height + gap), gap + columns * (grid.width + gap))
    canvas = np.broadcast_to(to_rgb(line), (*size, 3)).copy()
    for index, cell in enumerate(cells):
        top, left = grid.corner(index)
        shown = to_rgb(NO_DATA) if cell is None else cell.repeat(factor, 0).repeat(factor, 1)
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


def stacked(heights: Sequence[float], title: str | None) -> tuple[Figure, list[SubFigure]]:
    """A page with parts of these heights (inches), one below the other."""
    figure = new_figure(PAGE, sum(heights) + 0.3 * bool(title), title, SHARP)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    return figure, [*parts.flat]


def _with_note(
    heights: Sequence[float], title: str | None, note: str
) -> tuple[Figure, list[SubFigure]]:
    """The same with a note at the foot of the page; of no parts nothing."""
    if not heights:
        return new_figure(PAGE, _NOTE + 0.3 * bool(title), title, SHARP), []
    figure, (*parts, foot) = stacked([*heights, _NOTE], title)
    foot.text(0.01, 0.5, note, va="center", fontsize=6.5, color=MUTED)
    return figure, parts


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
    note = (
        f"Left of each block: a map's {result.k} strongest activations, at most one an image, each "
        "projected on its own (grey: no signal). Right: the images there.\nBelow: the map, the "
        "strongest and the weakest of these activations."
    )
    figure, parts = _with_note(heights, title, note)
    for index, (layer, part) in enumerate(zip(layers, parts, strict=True)):
        heading = f"{style.fit_name(layer, 40)}   windows of {'×'.join(map(str, sizes[index]))} px"
        part.suptitle(heading, x=0.01, ha="left", fontsize=8.5, color=layer_colour(index))
        signals, seen = _both_shown(result, layer, projections, patches)
        axes = part.subplots(rows[index], across[index], squeeze=False).flat
        for row, ax in enumerate(axes):
            if row < len(signals):
                _draw_sheet(ax, result, layer, row, signals[row], seen[row])
            else:
                ax.axis("off")
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


def _draw_sheet(
    ax: Axes, result: TopActivations, layer: str, row: int, signals: Array, seen: Array
) -> None:
    channel = int(result.channels[layer][row])
    numbers, values = (to_array(one[layer])[channel] for one in (result.images, result.values))
    there = fired(numbers, values)
    span = "never fires" if (numbers >= 0).any() else "nothing"
    if there.any():
        span = f"{style.number(values[there][0])} – {style.number(values[there][-1])}"
    style.show_image(ax, sheet(signals, seen, there, _across(len(there))))
    ax.set_xlabel(f"map {channel}  ·  {span}", labelpad=2, fontsize=6, color=MUTED)


_LABELS, _TOP = 0.42, 0.55  # inches beside and above a block
_WIDEST = 0.5  # inches of a cell


@draws(EvolutionResult)
def feature_evolution(
    result: EvolutionResult,
    projections: Mapping[str, Array] | None = None,
    patches: Mapping[str, Array] | None = None,
    columns: int = 2,
    most: int = 8,
    title: str | None = None,
) -> Figure:
    """Layer by layer a block: its rows are maps, its columns checkpoints, each cell the projection
    of the map's strongest activation; behind them the image of the last.

    `projections` and `patches` are display arrays ``[E,M,h,w,3]`` in 0..1 by layer; without them
    the result's own are stretched. `columns` blocks stand side by side; of more than `most`
    checkpoints so many are shown, evenly spread, first and last among them.
    """
    layers = [layer for layer in result.layers if len(result.channels[layer])]
    total = len(result.checkpoints)
    shown = np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int))
    columns = min(columns, max(1, len(layers)))
    cell = min(_WIDEST, (PAGE / columns - _LABELS) / (len(shown) + 1.25))
    groups = [layers[start : start + columns] for start in range(0, len(layers), columns)]
    heights = [
        _TOP + max(_block_height(result, layer) for layer in group) * cell for group in groups
    ]
    note = (
        "Columns: checkpoints; each cell the map's strongest activation over all images, projected "
        "(grey: no signal; light grey: it never fires).\nDot: in another image than in the column "
        "before. Last column: the image at the last checkpoint."
    )
    figure, rows = _with_note(heights, title, note)
    for row, group in zip(rows, groups, strict=True):
        axes = row.subplots(1, columns, squeeze=False)[0]
        for ax, layer in zip(axes, group, strict=False):
            signals, seen = _both_shown(result, layer, projections, patches, slice(-1, None))
            _draw_block(ax, result, layer, shown, signals[shown], seen[0])
        for ax in axes[len(group) :]:
            ax.axis("off")
    return figure


def _block_height(result: EvolutionResult, layer: str) -> float:
    """In cells' widths."""
    height, width = to_array(result.projections[layer]).shape[-2:]
    return len(result.channels[layer]) * max(1, height) / max(1, width)


def _draw_block(
    ax: Axes, result: EvolutionResult, layer: str, shown: Array, signals: Array, seen: Array
) -> None:
    channels, numbers = to_array(result.channels[layer]), to_array(result.images[layer])[shown]
    numbers = np.where(fired(numbers, to_array(result.values[layer])[shown]), numbers, -1)
    cells = [
        signals[column, row] if numbers[column, row] >= 0 else None
        for row in range(len(channels))
        for column in range(len(shown))
    ]
    images = [one if ok else None for one, ok in zip(seen, numbers[-1] >= 0, strict=True)]
    left, grid = mosaic(cells, len(shown))
    right, alone = mosaic(images, 1, NO_DATA)
    between = np.ones((len(left), max(1, right.shape[1] // 6), 3))
    ax.imshow(np.concatenate([left, between, right], 1), interpolation="antialiased")
    across = np.array([grid.corner(column)[1] for column in range(len(shown))])
    down = np.array([grid.corner(row * len(shown))[0] for row in range(len(channels))])
    behind = left.shape[1] + between.shape[1] + alone.corner(0)[1]
    for row, column in zip(*np.nonzero(numbers[1:].T != numbers[:-1].T), strict=True):
        place = (across[column + 1] + 0.13 * grid.width, down[row] + 0.13 * grid.width)
        ax.plot(*place, marker="o", markersize=1.6, markeredgewidth=0, color="white")
    names = [fit(result.checkpoints[column], 6, 1) for column in shown]
    ax.xaxis.tick_top()
    ax.set_xticks(
        [*across + grid.width / 2, behind + grid.width / 2], [*names, "image"], fontsize=5.5
    )
    ax.set_yticks(down + grid.height / 2, [str(channel) for channel in channels], fontsize=5.5)
    ax.tick_params(length=0, pad=1.5)
    ax.spines[:].set_visible(False)
    layers = [name for name in result.layers if len(result.channels[name])]
    props = {"color": layer_colour(layers.index(layer)), "fontsize": 8, "fontweight": "bold"}
    ax.set_title(style.fit_name(layer, 30), loc="left", pad=12, **props)
    ax.set_ylabel("map", fontsize=6, color=MUTED, labelpad=1)
