"""Training curves (the talk's supplement), networks with layers removed or resized, and linear
classifiers on each layer's features (paper, tables 3 and 7)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zfcuda.figures import style
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, new_figure, to_array
from zfcuda.results.training import AblationResult, ProbeResult, TrainingResult


@draws(TrainingResult)
def training_curves(result: TrainingResult, title: str | None = None) -> Figure:
    """Cross-entropy and error of training and validation against the epoch.

    A diamond at the chosen epoch is the test part's, with the 95 % interval of its error; dotted
    lines are where the learning rate was lowered. The training curves are taken while learning,
    with dropout and varied pictures, and so may lie above those of validation.
    """
    lowered = np.diff(to_array(result.rate)).any()
    figure = new_figure(7.2, 3.2 + 0.5 * bool(lowered), title)
    loss, error = figure.subplots(1, 2)
    _curves(loss, result, result.training_loss, result.validation_loss, result.test_loss)
    wrong = (1 - to_array(a) for a in (result.training_accuracy, result.validation_accuracy))
    low, high = 1 - to_array(result.test_interval)[::-1]
    error.vlines(result.best, low, high, color=INK, linewidth=0.9)
    _curves(error, result, *wrong, 1 - result.test_accuracy)
    loss.set_ylabel("cross-entropy (nats)")
    error.set_ylabel("error")
    error.yaxis.set_major_formatter(PercentFormatter(1))
    # Below: inside, it would lie on some network's curves.
    handles, labels = error.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _curves(
    ax: Axes, result: TrainingResult, training: Array, validation: Array, test: float
) -> None:
    epoch, rate = to_array(result.epoch), to_array(result.rate)
    marker = "." if len(epoch) < 30 else ""
    ax.plot(epoch, to_array(training), color=PALETTE[1], marker=marker, label="training")
    ax.plot(epoch, to_array(validation), color=PALETTE[0], marker=marker, label="validation")
    label = f"test of epoch {result.best}, {result.reading}"
    ax.plot([result.best], [test], "D", color=INK, markersize=4, linestyle="none", label=label)
    ax.set_xlabel("epoch")
    margin = max(0.5, 0.02 * epoch[-1])  # the marks of the first and last epoch are whole
    ax.set_xlim(1 - margin, epoch[-1] + margin)
    ax.set_ylim(bottom=-0.03 * ax.get_ylim()[1])  # and those at 0
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.y_grid(ax)
    labelled = -np.inf
    for last in np.flatnonzero(np.diff(rate)):
        ax.axvline(epoch[last] + 0.5, color=MUTED, linewidth=0.8, linestyle=":", zorder=0)
        if epoch[last] - labelled < 0.05 * (epoch[-1] + 2 * margin):  # a line of text
            continue
        labelled = epoch[last]
        text, place = f"rate {style.number(rate[last + 1])}", (epoch[last] + 0.5, 1.0)
        props = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 7, "color": MUTED}
        style.offset_text(ax, text, place, ("data", "axes fraction"), (0, 3), **props)


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
        millions = (result.parameters[row], result.multiplications[row])
        parameters, products = (float(number) / 1e6 for number in millions)
        weight = "normal" if row else "bold"
        style.beside_row(ax, 0.08 - left, row, style.fit(name, 32, 2), fontweight=weight)
        style.beside_row(ax, -0.82, row, f"{parameters:.2f}", ha="right")
        style.beside_row(ax, -0.15, row, f"{products:.1f}", ha="right")
    for x, side, text in (
        (0.08 - left, "left", "network"),
        (-0.82, "right", "parameters\n(millions)"),
        (-0.15, "right", "mult.-adds\n(millions)"),
        (_PLOT + 0.1, "left", _HEADS[len(result.seeds) > 1]),
    ):
        style.beside_row(ax, x, -0.5, text, 3, ha=side, va="bottom", fontsize=7, color=MUTED)
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
        weight = "bold" if row == test.argmin() else "normal"
        style.beside_row(ax, _PLOT + 0.1, row, text, fontweight=weight)
    low, high = (f(np.concatenate([training, validation, *ends.T])) for f in (np.min, np.max))
    margin = 0.06 * max(high - low, 0.01)
    ax.set(xlim=(low - margin, high + margin), ylim=(len(rows) - 0.5, -0.5), yticks=[])
    ax.spines.left.set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("error")
    spacing = {"handletextpad": 0.1, "columnspacing": 1.0, "borderaxespad": 0.2}
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, **spacing)


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
    style.y_grid(ax)
    pictures = [f"{n:,}".replace(",", "\N{THIN SPACE}") for n in result.pictures]
    ax.set_ylabel(f"accuracy of {len(result.class_names)} classes")
    ax.set_xlabel(f"pictures: {pictures[0]} training, {pictures[1]} validation, {pictures[2]} test")
    # Below: wherever it stood inside, some network's accuracies would be.
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=3 if width > 6 else 2
    )
    return figure


def _draw_accuracies(ax: Axes, result: ProbeResult) -> None:
    depth = np.arange(len(result.layers))
    accuracy = to_array(result.accuracy)
    error = np.abs(to_array(result.interval) - accuracy[:, None]).T
    validation = to_array(result.validation_accuracy)[depth, to_array(result.chosen)]
    curves = [depth, to_array(result.training_accuracy), validation, accuracy, error]
    # The input, if it was probed, is no layer: it stands apart.
    if len(depth) > 1 and " " in result.layers[0]:
        curves = [np.insert(one.astype(float), 1, np.nan, axis=-1) for one in curves]
    depth, training, validation, accuracy, error = curves
    ax.plot(depth, training, color=PALETTE[1], marker="^", markersize=4, linewidth=1,
            linestyle="-.", label="training")  # fmt: skip
    ax.plot(depth, validation, color=MUTED, marker="s", markersize=3.5, linewidth=1,
            linestyle="--", markerfacecolor="white", label="validation (chose C)")  # fmt: skip
    ax.errorbar(depth, accuracy, error, color=PALETTE[0], marker="o", markersize=5, capsize=2,
                label="test, 95% interval")  # fmt: skip


def _name_layers(ax: Axes, result: ProbeResult, names: list[str]) -> None:
    count, height = len(names), 1 + max(name.count("\n") for name in names)
    ticks = [
        "\n".join([name + "\n" * (height - 1 - name.count("\n")), *_cells(result, i)])
        for i, name in enumerate(names)
    ]
    ax.set_xticks(range(count), ticks, linespacing=1.35)
    ax.set_xlim(-0.5, count - 0.5)
    text = "layer" + "\n" * height + "test, %\nfeatures\nC"
    props = {"ha": "right", "va": "top", "linespacing": 1.35, "fontsize": 7.5, "color": MUTED}
    # Beside the first line of the ticks' labels.
    style.offset_text(ax, text, (0, 0), "axes fraction", (-8, -6.5), **props)


def _name(layer: str) -> str:
    return layer.split()[-1] if " " in layer else style.fold_name(layer, 11, 3)


def _cells(result: ProbeResult, index: int) -> tuple[str, str, str]:
    used = "×".join(str(n) for n in result.pooled[index]).removesuffix("×1×1")
    strength = float(result.regularisation[result.chosen[index]])
    return f"{100 * float(result.accuracy[index]):.1f}", used, f"{strength:g}"
