"""Linear classifiers on each layer's features (paper, table 7)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ._style import INK, MUTED, PALETTE, fit_name, new_figure, styled, to_array

if TYPE_CHECKING:
    from zfcuda.probing import ProbeResult


@styled
def probe(result: ProbeResult, title: str | None = None) -> Figure:
    """Accuracy against depth: test (with its 95 % interval), validation and training part.

    Below each layer, the features that its classifier was given and the strength of regularisation
    that was chosen. Dotted: the most frequent class's share; dashed: the network itself.
    """
    count = len(result.layers)
    figure = new_figure(max(4.4, 1.9 + 0.62 * count), 3.5 + 0.3 * bool(title), title)
    ax = figure.subplots()
    _draw_accuracies(ax, result)
    ax.axhline(result.chance, color=MUTED, linewidth=0.9, linestyle=":")
    _note(ax, result.chance, "most frequent class")
    if not math.isnan(result.network_accuracy):
        ax.axhline(result.network_accuracy, color=INK, linewidth=0.8, linestyle=(0, (5, 3)))
        _note(ax, result.network_accuracy, f"network: {result.network_accuracy:.1%}")
    _name_layers(ax, result)
    ax.set_ylim(0, 1.04)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    ax.set_axisbelow(True)
    pictures = [f"{n:,}".replace(",", "\N{THIN SPACE}") for n in result.pictures]
    ax.set_ylabel(f"accuracy of {len(result.class_names)} classes")
    ax.set_xlabel(f"pictures: {pictures[0]} training, {pictures[1]} validation, {pictures[2]} test")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.1))
    return figure


def _draw_accuracies(ax: Axes, result: ProbeResult) -> None:
    """Of the three parts against depth, with the test part's in numbers."""
    count = len(result.layers)
    depth = np.arange(count)
    chosen = to_array(result.chosen)
    validation = to_array(result.validation_accuracy)[depth, chosen]
    accuracy = to_array(result.accuracy)
    errors = np.abs(to_array(result.interval) - accuracy[:, None]).T
    # The input, if it was probed, is no layer: it stands apart.
    first = 1 if count > 1 and " " in result.layers[0] else 0
    for part in (slice(0, first), slice(first, count)):
        ax.plot(depth[part], to_array(result.training_accuracy)[part], color=PALETTE[1],
                marker="^", markersize=4, linewidth=1, linestyle="-.",
                label="training" if part.stop == count else None)  # fmt: skip
        ax.plot(depth[part], validation[part], color=MUTED, marker="s", markersize=3.5,
                linewidth=1, linestyle="--", markerfacecolor="white",
                label="validation (chose C)" if part.stop == count else None)  # fmt: skip
        ax.errorbar(depth[part], accuracy[part], errors[:, part],
                    color=PALETTE[0], marker="o", markersize=5, capsize=2,
                    label="test, 95% interval" if part.stop == count else None)  # fmt: skip
    for x, y in zip(depth, accuracy, strict=True):
        ax.annotate(
            f"{100 * y:.1f}",
            (x, y),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=PALETTE[0],
            fontweight="bold",
        )


def _name_layers(ax: Axes, result: ProbeResult) -> None:
    """Along the abscissa, with what their classifiers were given."""
    count = len(result.layers)
    ax.set_xticks(range(count), [_tick(result, i) for i in range(count)], linespacing=1.35)
    ax.set_xlim(-0.5, count - 0.5)
    ax.annotate(
        "layer\nfeatures\nC",
        (0, 0),
        xycoords="axes fraction",
        xytext=(-8, -6.5),  # beside the first line of the ticks' labels
        textcoords="offset points",
        ha="right",
        va="top",
        linespacing=1.35,
        fontsize=7.5,
        color=MUTED,
    )


def _note(ax: Axes, y: float, text: str) -> None:
    ax.annotate(
        text,
        (0, y),
        xycoords=("axes fraction", "data"),
        xytext=(4, 2),
        textcoords="offset points",
        fontsize=7,
        color=MUTED,
    )


def _tick(result: ProbeResult, index: int) -> str:
    name = result.layers[index]
    name = name.split()[-1] if " " in name else fit_name(name, 10)
    used = "×".join(str(n) for n in result.pooled[index]).removesuffix("×1×1")
    return f"{name}\n{used}\n{float(result.regularisation[result.chosen[index]]):g}"
