"""Linear classifiers on each layer's features (paper, table 7)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zfcuda.figures.style import INK, MUTED, PALETTE, draws, fold_name, new_figure, to_array, y_grid
from zfcuda.results.probe import ProbeResult


@draws(ProbeResult)
def probe(result: ProbeResult, title: str | None = None) -> Figure:
    """Accuracy against depth: test (with its 95 % interval), validation and training part.

    Below each layer, the test accuracy in numbers, the features that its classifier was given and
    the strength of regularisation that was chosen. Dotted: the most frequent class's share;
    dashed: the network itself.
    """
    count = len(result.layers)
    width = max(4.4, 1.9 + 0.62 * count)
    names = [_name(layer) for layer in result.layers]
    lines = max(name.count("\n") for name in names)
    figure = new_figure(width, 4.0 + 0.13 * lines + 0.3 * bool(title), title)
    ax = figure.subplots()
    _draw_accuracies(ax, result)
    ax.axhline(result.chance, color=MUTED, linewidth=0.9, linestyle=":",
               label=f"most frequent class: {result.chance:.1%}")  # fmt: skip
    if not math.isnan(result.network_accuracy):
        ax.axhline(result.network_accuracy, color=INK, linewidth=0.8, linestyle=(0, (5, 3)),
                   label=f"network: {result.network_accuracy:.1%}")  # fmt: skip
    _name_layers(ax, result, names)
    ax.set_ylim(-0.03, 1.03)  # the marks of 0 and 100 % are whole
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    y_grid(ax)
    pictures = [f"{n:,}".replace(",", "\N{THIN SPACE}") for n in result.pictures]
    ax.set_ylabel(f"accuracy of {len(result.class_names)} classes")
    ax.set_xlabel(f"pictures: {pictures[0]} training, {pictures[1]} validation, {pictures[2]} test")
    # Below: wherever it stood inside, some network's accuracies would be.
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=3 if width > 6 else 2
    )
    return figure


def _draw_accuracies(ax: Axes, result: ProbeResult) -> None:
    """Of the three parts against depth."""
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


def _name_layers(ax: Axes, result: ProbeResult, names: list[str]) -> None:
    """Along the abscissa, with their test accuracy and what their classifiers were given."""
    count, height = len(names), 1 + max(name.count("\n") for name in names)
    ticks = [
        "\n".join([name + "\n" * (height - 1 - name.count("\n")), *_cells(result, i)])
        for i, name in enumerate(names)
    ]
    ax.set_xticks(range(count), ticks, linespacing=1.35)
    ax.set_xlim(-0.5, count - 0.5)
    ax.annotate(
        "layer" + "\n" * height + "test, %\nfeatures\nC",
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


def _name(layer: str) -> str:
    return layer.split()[-1] if " " in layer else fold_name(layer, 11, 3)


def _cells(result: ProbeResult, index: int) -> tuple[str, str, str]:
    used = "×".join(str(n) for n in result.pooled[index]).removesuffix("×1×1")
    strength = float(result.regularisation[result.chosen[index]])
    return f"{100 * float(result.accuracy[index]):.1f}", used, f"{strength:g}"
