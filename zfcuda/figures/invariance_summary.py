"""How far the answers for a whole data set survive moving, scaling and turning its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from zfcuda.figures._style import (
    MUTED,
    PALETTE,
    Array,
    draws,
    fold_name,
    new_figure,
    score_source,
    styled,
    to_array,
)
from zfcuda.results.invariance import InvarianceSummary

if TYPE_CHECKING:
    from torch import Tensor


_COLUMN = 1.5  # inches
_WIDTH = 7.0  # inches: the text of a page; more layers than three take more
_SUMMARY_PANEL = 1.4  # inches, height of a row
# Of each family: what the row and its x axis are called.
_SUMMARY_AXES = {
    "vertical translation": ("vertical\ntranslation", "pixels down"),
    "horizontal translation": ("horizontal\ntranslation", "pixels right"),
    "scale": ("scale", "factor"),
    "rotation": ("rotation,\ncounter-clockwise", "degrees"),
}
_DISTANCE, _PROBABILITY, _LABEL = PALETTE[0], PALETTE[2], PALETTE[5]


@draws(InvarianceSummary)
@styled
def invariance_summary(
    result: InvarianceSummary,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """A row for each family of transformations: how far the features of each layer move, and the
    probability of the class, with the share of images whose label stays.

    Lines are means over the images, bands one standard deviation to either side. Distances are
    shares of the norm of the untransformed image's features; the panels of a column share their y
    axis. `images` and `class_names` are not shown.
    """
    families = list(result.values)
    columns = len(result.layers) + 1
    width = max(_WIDTH, 0.6 + _COLUMN * columns)
    figure = new_figure(width, 0.8 + 0.3 * bool(title) + _SUMMARY_PANEL * len(families), title)
    axes = figure.subplots(len(families), columns, squeeze=False, sharey="col")
    for row, family in enumerate(families):
        name, label = _SUMMARY_AXES.get(family, (family, ""))
        x = to_array(result.values[family])
        for column, layer in enumerate(result.layers):
            ax = axes[row, column]
            mean = to_array(result.distances[family])[column]
            spread = to_array(result.distance_spread[family])[column]
            _draw(ax, x, mean, spread, _DISTANCE)
            ax.yaxis.set_major_locator(MaxNLocator(4))
            if row == 0:
                where = fold_name(layer, int(12 * width / columns), 3)
                ax.set_title(f"distance at\n{where}", fontsize=8)
        _draw_answers(axes[row, -1], result, family, x, first=row == 0)
        for ax in axes[row]:
            ax.axvline(1 if family == "scale" else 0, color=MUTED, linewidth=0.5, linestyle=":")
            ax.set_xlim(x.min(), x.max()) if x.size > 1 else None
            ax.set_xlabel(label, labelpad=1)
            turns = family == "rotation" and np.ptp(x) > 180
            ax.xaxis.set_major_locator(MultipleLocator(90) if turns else MaxNLocator(4))
            ax.grid(axis="y", color="#e6e6e6", linewidth=0.5)
            ax.set_axisbelow(True)
        axes[row, 0].set_ylabel(f"{name}\n", fontweight="bold")
    for column in range(columns - 1):
        low = [_lowest(result.distances[f][column], result.distance_spread[f][column])
               for f in families]  # fmt: skip
        axes[0, column].set_ylim(bottom=min(0, *low))
    if result.outputs != "value":
        _show_whole(axes[0, -1], result)
        # Below: inside, it would lie on some network's curves.
        figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _lowest(mean: Tensor, spread: Tensor) -> float:
    """The lower end of a band."""
    return float((mean - spread.nan_to_num()).nan_to_num().min())


def _show_whole(ax: Axes, result: InvarianceSummary) -> None:
    """Probabilities from 0 to 1, and bands that reach further."""
    bands = [(result.probabilities[f], result.probability_spread[f]) for f in result.values]
    low = min(_lowest(mean, spread) for mean, spread in bands)
    high = -min(_lowest(-mean, spread) for mean, spread in bands)
    ax.set_ylim(min(0, low) - 0.03, max(1, high) + 0.03)


def _draw(
    ax: Axes, x: Array, mean: Array, spread: Array, colour: str, label: str | None = None
) -> None:
    order = np.argsort(x, kind="stable")
    spread = np.nan_to_num(spread)
    low, high = (mean - spread)[order], (mean + spread)[order]
    ax.fill_between(x[order], low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(x[order], mean[order], color=colour, linewidth=1.3, label=label)


def _draw_answers(ax: Axes, result: InvarianceSummary, family: str, x: Array, first: bool) -> None:
    mean, spread = result.probabilities[family], result.probability_spread[family]
    if result.outputs == "value":
        _draw(ax, x, to_array(mean), to_array(spread), _PROBABILITY)
        ax.set_title("value" if first else "", fontsize=8)
        return
    _draw(ax, x, to_array(mean), to_array(spread), _PROBABILITY, "probability")
    order = np.argsort(x, kind="stable")
    stays = to_array(result.unchanged[family])[order]
    ax.plot(x[order], stays, color=_LABEL, linewidth=1.0, linestyle="--", label="label stays")
    ax.set_yticks([0, 0.5, 1])
    if first:
        title = "probability of the class" + score_source(result.outputs).replace(" ", "\n", 1)
        ax.set_title(title, fontsize=8)
