"""Networks with layers removed or resized (paper, table 3)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zfcuda.figures.style import INK, MUTED, PALETTE, draws, fit, new_figure, to_array
from zfcuda.results.ablation import AblationResult

# Inches. Names and numbers must stand beside their rows of the panel, so that everything is placed.
_NAME, _SIZES, _PLOT, _NUMBERS = 1.95, 1.42, 2.45, 1.52
_ROW, _TITLE, _HEAD, _FOOT = 0.32, 0.3, 0.36, 0.62
_HEADS = "test error\n(95% interval)", "test error\n(± standard error)"  # of one seed, of several


@draws(AblationResult)
def ablation(result: AblationResult, title: str | None = None) -> Figure:
    """Table 3 as a table with marks: a row for each network, its size, and its errors.

    Marks are means over seeds (the training error is taken while learning, with dropout); the line
    is the test error's interval, over seeds or, of a single one, by the number of test pictures;
    the dotted line is the first network's test error.
    """
    rows = len(result.variants)
    top = _HEAD + _TITLE * bool(title)
    width, height = _NAME + _SIZES + _PLOT + _NUMBERS, top + rows * _ROW + _FOOT
    figure = new_figure(width, height, title)
    figure.set_layout_engine("none")
    left, bottom = _NAME + _SIZES, _FOOT / height
    ax = figure.add_axes((left / width, bottom, _PLOT / width, rows * _ROW / height))
    _draw_errors(ax, result)
    for row, name in enumerate(result.variants):
        million = float(result.parameters[row]) / 1e6
        products = float(result.multiplications[row]) / 1e6
        cells = ((-left + 0.08, "left", fit(name, 32, 2)), (-0.82, "right", f"{million:.2f}"),
                 (-0.15, "right", f"{products:.1f}"))  # fmt: skip
        for x, side, text in cells:
            _cell(ax, x, row, text, side, bold=row == 0 and side == "left")
    for x, side, text in (
        (-left + 0.08, "left", "network"),
        (-0.82, "right", "parameters\n(millions)"),
        (-0.15, "right", "mult.-adds\n(millions)"),
        (_PLOT + 0.1, "left", _HEADS[len(result.seeds) > 1]),
    ):
        _cell(ax, x, -0.5, text, side, heading=True)
    figure.text(
        0.08 / width, 0.08 / height,
        f"{result.data}; equal budgets: {result.budget}. Training: during the epoch, with dropout.",
        fontsize=7, color=MUTED,
    )  # fmt: skip
    return figure


def _draw_errors(ax: Axes, result: AblationResult) -> None:
    rows = np.arange(len(result.variants))
    training, validation, test = (
        to_array(errors).mean(1)
        for errors in (result.training_error, result.validation_error, result.test_error)
    )
    ends = to_array(result.interval)
    for row in rows[::2]:
        ax.axhspan(
            row - 0.5, row + 0.5, -(_NAME + _SIZES) / _PLOT, 1 + _NUMBERS / _PLOT,
            color="#f5f5f5", clip_on=False, zorder=0,
        )  # fmt: skip
    ax.axvline(test[0], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    ax.plot(training, rows, "^", color=PALETTE[1], markersize=4, label="training")
    ax.plot(validation, rows, "s", color=MUTED, markersize=4, markerfacecolor="white",
            label="validation")  # fmt: skip
    sides = np.abs(ends - test[:, None]).T
    ax.errorbar(test, rows, xerr=sides, fmt="o", color=PALETTE[0], markersize=5, capsize=2,
                elinewidth=1, label="test")  # fmt: skip
    for row in rows:
        text = f"{test[row]:.1%} ({100 * ends[row, 0]:.1f}–{100 * ends[row, 1]:.1f})"
        _cell(ax, _PLOT + 0.1, row, text, "left", bold=row == int(test.argmin()))
    low, high = (f(np.concatenate([training, validation, *ends.T])) for f in (np.min, np.max))
    margin = 0.06 * max(high - low, 0.01)
    ax.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    ax.spines.left.set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("error")
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def _cell(
    ax: Axes, x: float, row: float, text: str, side: str, bold: bool = False, heading: bool = False
) -> None:
    """Text at so many inches from the panel's left edge, beside a row or above all of them."""
    ax.annotate(
        text,
        (0, row),
        xycoords=("axes fraction", "data"),
        xytext=(72 * x, 3 if heading else 0),
        textcoords="offset points",
        ha=side,
        va="bottom" if heading else "center",
        fontsize=7 if heading else 7.5,
        fontweight="bold" if bold else "normal",
        color=MUTED if heading else INK,
    )
