"""Training curves (the talk's supplement): loss and error against the epoch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from zfcuda.figures import style
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, new_figure, to_array
from zfcuda.results.training import TrainingResult


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
        ax.annotate(
            f"rate {style.number(rate[last + 1])}",
            (epoch[last] + 0.5, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=MUTED,
        )
