"""Several images under several transformations (paper, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, MultipleLocator

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.invariance import InvarianceResult, InvarianceStudy, InvarianceSummary

if TYPE_CHECKING:
    from torch import Tensor


_COLUMN = 1.5  # inches
WIDTH = 7.0  # inches: the text of a page; a summary of more layers than three takes more
_SUMMARY_PANEL = 1.4  # inches, height of a row
# Of each family: what the row and its x axis are called, and the unit behind an example's value.
_AXES = {
    "vertical translation": ("vertical\ntranslation", "pixels down", " px"),
    "horizontal translation": ("horizontal\ntranslation", "pixels right", " px"),
    "scale": ("scale", "factor", "×"),
    "rotation": ("rotation,\ncounter-clockwise", "degrees", "°"),
}
_DISTANCE, _PROBABILITY, _LABEL = PALETTE[0], PALETTE[2], PALETTE[5]


@draws(InvarianceSummary)
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
    width = max(WIDTH, 0.6 + _COLUMN * columns)
    figure = new_figure(width, 0.8 + 0.3 * bool(title) + _SUMMARY_PANEL * len(families), title)
    axes = figure.subplots(len(families), columns, squeeze=False, sharey="col")
    for row, family in enumerate(families):
        name = _AXES.get(family, (family,))[0]
        x = to_array(result.values[family])
        for column, layer in enumerate(result.layers):
            ax = axes[row, column]
            mean = to_array(result.distances[family])[column]
            spread = to_array(result.distance_spread[family])[column]
            _draw(ax, x, mean, spread, _DISTANCE)
            ax.yaxis.set_major_locator(MaxNLocator(4))
            if row == 0:
                where = style.fold_name(layer, int(12 * width / columns), 3)
                ax.set_title(f"distance at\n{where}", fontsize=8)
        _draw_answers(axes[row, -1], result, family, x, first=row == 0)
        for ax in axes[row]:
            _name_values(ax, family, x, turns=family == "rotation" and np.ptp(x) > 180)
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


def _name_values(ax: Axes, family: str, x: Array, turns: bool, **line: float) -> None:
    """The x axis of a family's values, with a mark at the untransformed image's."""
    unchanged = 1 if family == "scale" else 0
    ax.axvline(unchanged, color=MUTED, linewidth=0.5, linestyle=":", **line)
    if x.size > 1:
        ax.set_xlim(x.min(), x.max())
    ax.set_xlabel(_AXES.get(family, ("", ""))[1], labelpad=1)
    ax.xaxis.set_major_locator(MultipleLocator(90) if turns else MaxNLocator(4))
    style.y_grid(ax, 0.5)


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
        title = "probability of the class" + style.score_source(result.outputs, "\n")
        ax.set_title(title, fontsize=8)


_IN_A_ROW = 7  # images along the top; as many as there are colours
_STRIP, _PANEL = 1.32, 1.28  # inches, heights of a row
_NUMBERED = 9  # lines; the numbers of more would not fit
_LINE = 0.11  # height of a number, as a share of a panel's


@draws(InvarianceStudy)
def invariance_study(
    result: InvarianceStudy,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The images along the top; below, a row for each family of transformations: the first image
    transformed, how far the features of each layer move, and the probability of the true class.

    A line is an image, numbered as along the top. Distances are Euclidean, as shares of the norm of
    the untransformed image's features; the panels of a column share their y axis. `preprocessing`
    is the network's (:func:`zfcuda.models.preprocessing`); with it the images have true colours,
    without it the network's three channels, stretched to 0..1, stand for red, green and blue (of
    other than three channels, grey).
    """
    shown = style.input_pictures(result.images, preprocessing)
    families = list(result.experiments)
    heights = [_STRIP * -(-len(shown) // _IN_A_ROW), _PANEL * len(families) + 0.25]
    figure = new_figure(WIDTH, 0.1 + 0.3 * bool(title) + sum(heights), title)
    strip, panels = figure.add_gridspec(2, 1, height_ratios=heights)
    _draw_images(strip, result, shown, class_names)

    widths = [0.8, *[1.0] * (1 + len(result.layers))]
    cells = panels.subgridspec(len(families), len(widths), width_ratios=widths)
    curves: list[Axes] = []
    shared: list[Axes | None] = [None] * (1 + len(result.layers))
    for row, family in enumerate(families):
        examples = style.input_pictures(result.examples[family], preprocessing)
        _draw_examples(cells[row, 0], result, family, examples, first=row == 0)
        for column, reference in enumerate(shared):
            ax = figure.add_subplot(cells[row, 1 + column], sharey=reference)
            shared[column] = shared[column] or ax
            _draw_curves(ax, result, family, column, first=row == 0)
            curves.append(ax)
    if len(shown) <= _NUMBERED:
        for ax in curves:  # now that shared axes have their limits
            _number_lines(ax)
    return figure


def _style(image: int) -> dict[str, str]:
    return {
        "color": PALETTE[image % len(PALETTE)],
        "linestyle": style.LINE_STYLES[image // len(PALETTE) % len(style.LINE_STYLES)],
    }


def _draw_images(
    spec: SubplotSpec, result: InvarianceStudy, shown: Array, class_names: Sequence[str] | None
) -> None:
    """Each image, framed in its line's colour, with its number, its name and P(true class)."""
    columns = min(len(shown), _IN_A_ROW)
    cells = spec.subgridspec(-(-len(shown) // columns), columns)
    experiment = next(iter(result.experiments.values()))
    targets = to_array(experiment.target)
    certainty = to_array(experiment.base_probabilities)[np.arange(len(targets)), targets]
    letter = "value" if experiment.outputs == "value" else "P"
    for index, image in enumerate(shown):
        ax = spec.get_gridspec().figure.add_subplot(cells[divmod(index, columns)])
        room = int(98 / max(columns, 3))
        name = style.class_name(class_names, int(targets[index]), experiment.logits.shape[-1])
        caption = f"{fit(name, room, 1)}\n{letter} {certainty[index]:.2f}"
        style.show_image(ax, image, caption=caption.lstrip("\n"))
        name = result.names[index]
        short = name if len(name) <= room - 4 else f"{name[: room - 5]}…"
        ax.set_title(f"{index + 1}  {short}", fontsize=7.5)
        ax.spines[:].set(visible=True, linewidth=2.2, **_style(index))


def _draw_examples(
    spec: SubplotSpec, result: InvarianceStudy, family: str, shown: Array, first: bool
) -> None:
    """The first image transformed, two by two, behind the row's name."""
    name, _, unit = _AXES[family]
    ax = spec.get_gridspec().figure.add_subplot(spec)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_ylabel(name.replace("counter-", "counter-\n"), fontweight="bold")
    if first:
        ax.set_title("image 1,\ntransformed", fontsize=8)
    for index, (image, value) in enumerate(
        zip(shown, to_array(result.example_values[family]), strict=True)
    ):
        row, column = divmod(index, 2)
        cell = ax.inset_axes((0.51 * column, 0.51 * (1 - row), 0.49, 0.49))
        style.show_image(cell, image)
        cell.set_anchor(("SE", "SW")[column] if row == 0 else ("NE", "NW")[column])
        label = style.number(value) + unit
        cell.text(
            0.04,
            0.05,
            ("+" if "px" in unit and value > 0 else "") + label.replace("-", "−"),
            transform=cell.transAxes,
            color="white",
            fontsize=6.5 if len(result.layers) < 3 else 5,
            path_effects=[withStroke(linewidth=1.6, foreground="#222222")],
        )


def _draw_curves(ax: Axes, result: InvarianceStudy, family: str, column: int, first: bool) -> None:
    """One panel: a layer's distances, or in the last column the probabilities."""
    room = 72 // (2 + len(result.layers))  # letters
    experiment = result.experiments[family]
    x = _abscissa(experiment)
    if column < len(result.layers):
        layer = result.layers[column]
        curves = to_array(experiment.relative_distances(layer))
        title = f"distance at\n{style.fit_name(layer, room)}"
    else:
        curves = to_array(experiment.target_probability)
        source = style.score_source(experiment.outputs, "\n")
        title = "probability\nof the class" + source
        title = "value" if experiment.outputs == "value" else title
    order = np.argsort(x, kind="stable")
    for index, curve in enumerate(curves):
        ax.plot(x[order], curve[order], linewidth=1.1, gid=str(index + 1), **_style(index))
    _name_values(ax, family, x, turns=family == "rotation", zorder=0)
    if column < len(result.layers):
        ax.set_ylim(bottom=0, auto=True)  # the rows below may need more
        ax.yaxis.set_major_locator(MaxNLocator(4))
    elif experiment.outputs != "value":
        ax.set_ylim(-0.03, 1.03)
        ax.set_yticks([0, 0.5, 1])
    if column == 0:
        ax.set_ylabel("share of norm", labelpad=2)
    if first:
        ax.set_title(title, fontsize=8)


def _abscissa(experiment: InvarianceResult) -> Array:
    values = to_array(experiment.values).astype(float)
    return values.sum(axis=1) if values.ndim == 2 else values  # one of a pair is 0


def _number_lines(ax: Axes) -> None:
    """Each line's number behind its end, with a thin leader where they had to be moved apart."""
    low, high = ax.get_ylim()
    lines = [line for line in ax.lines if line.get_gid() is not None]
    ends = [(float(line.get_ydata()[-1]) - low) / (high - low) for line in lines]
    drawn = [index for index in np.argsort(ends) if np.isfinite(ends[index])]
    for index, height in zip(drawn, _apart([ends[i] for i in drawn]), strict=True):
        moved = abs(height - ends[index]) > _LINE / 4
        if moved:
            leader = Line2D([1.0, 1.05], [ends[index], height], transform=ax.transAxes)
            leader.set(color=lines[index].get_color(), linewidth=0.5, clip_on=False)
            ax.add_artist(leader)  # unlike plot, leaves the limits alone
        ax.text(
            1.06 if moved else 1.025,
            height,
            lines[index].get_gid(),
            transform=ax.transAxes,
            color=lines[index].get_color(),
            fontsize=6.5,
            fontweight="bold",
            va="center",
        )


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights in 0..1, at least a line of text apart, as near as that goes to where they
    were: those that would meet stand as a block around their mean."""
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _bottom(blocks[-1]) - _top(blocks[-2]) < _LINE - 1e-9:
            last = blocks.pop()
            blocks[-1] += last
    return [_bottom(block) + _LINE * place for block in blocks for place in range(len(block))]


def _bottom(block: Sequence[float]) -> float:
    length = _LINE * (len(block) - 1)
    return min(max(sum(block) / len(block) - length / 2, 0.0), 1.0 - length)


def _top(block: Sequence[float]) -> float:
    return _bottom(block) + _LINE * (len(block) - 1)
