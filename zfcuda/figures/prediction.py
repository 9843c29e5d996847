"""What a network answers, and how far it can be trusted (the talk's supplement)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import FuncFormatter, PercentFormatter

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.predictions import Predictions, UncertaintyResult


@draws(Predictions)
def prediction(
    result: Predictions,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    image: int = 0,
    k: int = 5,
    title: str | None = None,
) -> Figure:
    """One image's `k` most probable classes as bars, with the entropy of the whole distribution.

    `images` are the network's inputs as display arrays ``[N,H,W,3]`` in 0..1; without them only
    the bars are drawn. `class_names[i]` names class `i` (default: the result's own).
    """
    class_names = result.class_names if class_names is None else class_names
    k = min(k, result.logits.shape[-1])
    probabilities, labels = (to_array(t)[image] for t in result.top(k))
    entropy = float(to_array(result.entropy)[image])
    total = float(to_array(result.probabilities)[image].sum())
    rest = max(0.0, total - float(probabilities.sum()))

    figure = new_figure(6.4, 2.6, title)
    widths = [1.0, 1.5] if images is not None else [1.0]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    if images is not None:
        style.show_image(axes[0], style.display_images(images)[image], caption="network input")

    bars = axes[-1]
    rows = np.arange(k)
    room = 0.015 * (1 if result.outputs != "value" else float(np.abs(probabilities).max()))
    colours = [PALETTE[0]] + ["#9ecae1"] * (k - 1)
    bars.barh(rows, np.nan_to_num(probabilities), color=colours, height=0.62)
    for row, probability in zip(rows, probabilities, strict=True):
        bars.text(max(np.nan_to_num(probability), 0) + room, row, f"{probability:.3f}", va="center")
    count = result.logits.shape[-1]
    names = [style.class_name(class_names, int(label), count) for label in labels]
    bars.set_yticks(rows, [fit(name or "the output", 24) for name in names])
    bars.tick_params(axis="y", length=0)
    bars.set_ylim(k - 0.5, -0.5)
    bars.set_xlabel(style.score_axis(result.outputs))
    if result.outputs == "value":
        bars.margins(x=0.2)
        bars.axvline(0, color=MUTED, linewidth=0.6)
        return figure
    bars.set_xlim(0, 1.16)  # room for the number at the end of a full bar
    bars.spines.bottom.set_bounds(0, 1)
    bars.set_xticks(np.linspace(0, 1, 5))
    text = f"entropy {entropy:.2f} nats"
    if count > 1:  # one probability is that of a yes, beside which there is a no
        text += f"\n(as uncertain as {np.exp(entropy):.1f} equally likely classes)"
    bars.set_title(text, loc="left", fontsize=8)
    if (k < result.logits.shape[-1] and abs(total - 1) < 0.01) or result.outputs == "logits":
        props = {"ha": "right", "va": "bottom", "color": MUTED, "transform": bars.transAxes}
        bars.text(1.0, 0.04, f"all other classes: {rest:.3f}", **props)
    return figure


WIDTH = 7.2  # inches: the text of a page
_RIGHT, _WRONG, _TRUE = PALETTE[0], PALETTE[5], "#9ecae1"
_BINS = 24  # of the entropy
_CLASSES = 12  # of the confusion matrix; more would not be readable
_IMAGES, _TOP = 5, 3  # how many are shown, and how many classes of each
_UPPER = 2.5  # inches, height of the first row


@draws(UncertaintyResult)
def uncertainty(
    result: UncertaintyResult,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Figure:
    """Entropy of right and wrong answers, reliability curve, confusion matrix, and the least
    certain images with their distributions.

    `images` ``[M,H,W,3]`` in 0..1 show ``result.images``; for `preprocessing` see
    :mod:`zfcuda.figures`. Of more than twelve classes the confusion matrix has the most frequent
    ones and all others as one.
    """
    counts, hits, names = _joined(to_array(result.confusion), class_names)
    lower = max(1.2 + 0.25 * len(names), 0.3 + 0.66 * min(_IMAGES, len(result.numbers)))
    figure = new_figure(WIDTH, 0.1 + 0.3 * bool(title) + _UPPER + lower, title)
    rows = figure.add_gridspec(2, 1, height_ratios=[_UPPER, lower])
    left, right = rows[0].subgridspec(1, 2, width_ratios=[1.1, 1])
    _draw_entropy(figure.add_subplot(left), result)
    _draw_reliability(right, result)
    left, right = rows[1].subgridspec(1, 2, width_ratios=[1.75, 1])
    _draw_confusion(figure.add_subplot(left), counts, hits, names)
    shown = style.input_pictures(result.images, preprocessing, images)
    _draw_least_certain(right, result, shown[:_IMAGES], class_names, lower)
    return figure


def _draw_entropy(ax: Axes, result: UncertaintyResult) -> None:
    entropy, correct = to_array(result.entropy), to_array(result.correct)
    classes = result.probabilities.shape[1]
    largest = np.log(classes) if classes > 1 else 1.0
    if np.nanmax(entropy, initial=0) > largest + 1e-3:  # classes that do not exclude one another
        largest = classes * np.log(2)
    edges = np.linspace(0, largest, _BINS + 1)
    for right, colour, name, line in (
        (True, _RIGHT, "right", "-"),
        (False, _WRONG, "wrong", (0, (3, 1))),
    ):
        chosen = correct == right
        values = entropy[chosen & np.isfinite(entropy)]
        label = f"{name} ({chosen.sum():,})".replace(",", "\N{THIN SPACE}")
        if values.size:
            label += f", median {result.median_entropy(right):.2f}"
        counts = np.histogram(np.minimum(values, largest), edges)[0]
        ax.stairs(counts, edges, fill=True, color=colour, alpha=0.18)
        ax.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.3, label=label)
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    ax.set(xlim=(0, largest), ylim=(0.7, None))
    ax.set_xlabel(f"entropy of the answer (nats; at most {largest:.2f})")
    ax.set_ylabel("images")
    ax.legend(loc="upper right", handlelength=1.8, borderaxespad=0.1)
    bottom, top = ax.get_ylim()
    ax.set_ylim(top=bottom * (top / bottom) ** 1.35)  # room for the legend: a quarter of the axis
    style.panel_title(ax, "a  entropy of right and wrong answers")


def _draw_reliability(spec: SubplotSpec, result: UncertaintyResult) -> None:
    figure = spec.get_gridspec().figure
    cells = spec.subgridspec(2, 1, height_ratios=[3, 1], hspace=0.05)
    curve = figure.add_subplot(cells[0])
    counts = figure.add_subplot(cells[1], sharex=curve)
    found = result.reliability()
    edges = to_array(found.edges)
    sure, right, number = map(to_array, (found.confidence, found.accuracy, found.counts))
    there = number > 0
    curve.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    error = np.abs(to_array(found.interval)[there] - right[there, None]).T
    curve.vlines(sure[there], sure[there], right[there], color=_WRONG, linewidth=2.2, alpha=0.45)
    curve.errorbar(
        sure[there], right[there], error, color=_RIGHT, marker="o", markersize=3.5, linewidth=1.2,
        elinewidth=0.7,
    )  # fmt: skip
    # The marks of 0 and 100 % are whole.
    curve.set(xlim=(-0.03, 1.03), ylim=(-0.05, 1.05), ylabel="accuracy")
    curve.tick_params(labelbottom=False)
    for axis in (curve.yaxis, counts.xaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    mean = np.nansum(sure * number) / max(number.sum(), 1)
    counts.stairs(number, edges, fill=True, color=style.NO_DATA)
    # Below: in the panel, it would lie on some network's curve.
    note = (
        f"calibration error {found.ece:.3f}\naccuracy {result.accuracy:.1%}, "
        f"mean confidence {mean:.1%}"
    )
    counts.set(xlabel=f"confidence{style.score_source(result.outputs)}\n{note}", ylabel="images")
    counts.locator_params(axis="y", nbins=2)
    style.panel_title(curve, f"b  reliability ({result.bins} bins)")


def _draw_confusion(ax: Axes, counts: Array, hits: Array, names: Sequence[str]) -> None:
    totals = counts.sum(1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    # Logarithmic: errors of one in a hundred are to be seen beside the hits.
    ax.imshow(np.ma.masked_equal(shares, 0), cmap="Blues", norm=LogNorm(0.001, 1), aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.12 else INK
            weight = "bold" if row == column else "normal"
            props = {"ha": "center", "va": "center", "fontsize": 6.5}
            ax.text(column, row, f"{count}", color=colour, fontweight=weight, **props)
    ticks = np.arange(len(names))
    ax.set_xticks(ticks, [fit(name, 14, 1) for name in names], rotation=90)
    labels = [
        f"{fit(name, 18, 1)}  {f'{right / total:.0%}' if total else '–'}"
        for name, right, total in zip(names, hits, totals[:, 0], strict=True)
    ]
    ax.set_yticks(ticks, labels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class, share right")
    style.panel_title(ax, "c  confusion matrix (shade: share of the row)")


def _joined(confusion: Array, class_names: Sequence[str] | None) -> tuple[Array, Array, list[str]]:
    """The matrix, each row's right answers, and names; of many classes the most frequent and the
    rest as one, whose right answers are those that name the very class."""
    occurring = confusion.sum(0) + confusion.sum(1)
    shown = np.arange(len(confusion))
    if len(confusion) > _CLASSES:
        shown = np.sort(np.argsort(-occurring, kind="stable")[:_CLASSES])
        shown = shown[occurring[shown] > 0]
    names = [style.class_name(class_names, int(label)) for label in shown]
    groups = [[label] for label in shown]
    rest = np.setdiff1d(np.flatnonzero(occurring), shown)
    if rest.size:
        groups.append(rest)
        names.append(f"{len(rest)} others")
    joined = np.array([[confusion[np.ix_(a, b)].sum() for b in groups] for a in groups])
    return joined, np.array([np.diagonal(confusion)[a].sum() for a in groups]), names


def _draw_least_certain(
    spec: SubplotSpec,
    result: UncertaintyResult,
    shown: Array,
    class_names: Sequence[str] | None,
    inches: float,
) -> None:
    """The least certain images, each with its most probable classes, the true one marked; in a
    panel of so many inches' height."""
    panel = spec.get_gridspec().figure.add_subplot(spec)
    panel.axis("off")
    style.panel_title(panel, "d  least certain images")
    probabilities, labels = to_array(result.probabilities), to_array(result.labels)
    height = min(1 / max(len(shown), 1), 0.75 / inches)
    for row, image in enumerate(shown):
        number, bottom = int(result.numbers[row]), 1 - (row + 1) * height
        ax = panel.inset_axes((0.0, bottom + 0.1 * height, 0.24, 0.88 * height))
        style.show_image(ax, image)
        ax.set_anchor("NW")
        truth = int(labels[number])
        bars = panel.inset_axes((0.66, bottom + 0.28 * height, 0.22, 0.7 * height))
        _draw_distribution(bars, probabilities[number], truth, class_names)
        note = f"entropy {float(result.entropy[number]):.2f}"
        if truth not in np.argsort(-probabilities[number], kind="stable")[:_TOP]:
            note += f", true: {fit(style.class_name(class_names, truth), 12, 1)}"
        panel.text(0.27, bottom + 0.23 * height, note, fontsize=6.5, va="top", color=MUTED)


def _draw_distribution(
    ax: Axes, probabilities: Array, truth: int, class_names: Sequence[str] | None
) -> None:
    best = np.argsort(-probabilities, kind="stable")[:_TOP]
    colours = [_TRUE if label == truth else "#e6e6e6" for label in best]
    ax.barh(np.arange(len(best)), np.nan_to_num(probabilities[best]), color=colours, height=0.86)
    for row, label in enumerate(best):
        weight = "bold" if label == truth else "normal"
        name = fit(style.class_name(class_names, int(label)), 15, 1)
        ax.text(-0.06, row, name, va="center", ha="right", fontsize=6.5, fontweight=weight)
        ax.text(1.06, row, f"{probabilities[label]:.2f}", va="center", fontsize=6.5)
    ax.set(xlim=(0, 1), ylim=(len(best) - 0.5, -0.5), xticks=[], yticks=[])
    ax.spines.bottom.set_visible(False)
