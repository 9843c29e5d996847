"""How features come to be during training (Zeiler & Fergus 2014, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zfcuda.figures import style
from zfcuda.figures.maxima import PAGE, SHARP, fired, given_or_own, mosaic, require_one_size
from zfcuda.figures.projection import layer_colour
from zfcuda.figures.style import MUTED, NO_DATA, Array, draws, fit, new_figure, to_array
from zfcuda.results.maxima import EvolutionResult

_LABELS, _TOP, _NOTE = 0.42, 0.55, 0.30  # inches beside, above a block, and for the note
_LARGEST = 0.5  # inches of a cell


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
    cell = min(_LARGEST, (PAGE / columns - _LABELS) / (len(shown) + 1.25))
    groups = [layers[start : start + columns] for start in range(0, len(layers), columns)]
    heights = [
        _TOP + max(_block_height(result, layer) for layer in group) * cell for group in groups
    ]
    figure = new_figure(PAGE, sum(heights) + _NOTE + (0.3 if title else 0), title, SHARP)
    if not layers:
        return figure
    *rows, foot = figure.subfigures(
        len(groups) + 1, 1, height_ratios=[*heights, _NOTE], squeeze=False
    )[:, 0]
    for row, group in zip(rows, groups, strict=True):
        axes = row.subplots(1, columns, squeeze=False)[0]
        for ax, layer in zip(axes, group, strict=False):
            given = [None if some is None else some[layer] for some in (projections, patches)]
            signals = given_or_own(given[0], result.projections[layer], style.display_signal)
            last = None if given[1] is None else given[1][-1:]
            seen = given_or_own(last, result.patches[layer][-1:], style.display_images)[-1]
            require_one_size(layer, signals, seen)
            _draw_block(ax, result, layer, shown, signals[shown], seen)
        for ax in axes[len(group) :]:
            ax.axis("off")
    note = (
        "Columns: checkpoints; each cell the map's strongest activation over all images, projected "
        "(grey: no signal; light grey: it never fires).\nDot: in another image than in the column "
        "before. Last column: the image at the last checkpoint."
    )
    foot.text(0.01, 0.5, note, va="center", fontsize=6.5, color=MUTED)
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
        ax.plot(
            across[column + 1] + 0.13 * grid.width,
            down[row] + 0.13 * grid.width,
            marker="o",
            markersize=1.6,
            markeredgewidth=0,
            color="white",
        )
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
