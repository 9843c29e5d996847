"""Invariance curves (paper, section 4.1 and figure 5; the talk's figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, MultipleLocator

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.invariance import InvarianceResult, InvarianceStudy, InvarianceSummary

_AXES = {
    "rotation": "rotation, counter-clockwise (degrees)",
    "scaling": "scale factor",
    "translation": "translation (px)",
}
# Where a legend stands: right of its panel.
_BESIDE: dict[str, Any] = {
    "loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0, "alignment": "left"
}  # fmt: skip


@draws(InvarianceResult)
def invariance_curve(
    result: InvarianceResult,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    image: int = 0,
    title: str | None = None,
    image_values: Sequence[float] | None = None,
) -> Figure:
    """P(true class), the predicted label and the layers' feature distances along a transformation.

    `images` ``[T,H,W,3]`` in 0..1 are example transformed images, drawn along the top at the
    values `image_values` (by default evenly over the result's values). Distances are Euclidean,
    each layer's divided by its own maximum, which the legend states.
    """
    x, x_label = _abscissa(result)
    order = np.argsort(x, kind="stable")
    x = x[order]
    probability = to_array(result.target_probability)[image][order].astype(float)
    labels = to_array(result.labels)[image][order]
    distances = {name: to_array(d)[image][order] for name, d in result.distances.items()}
    target = int(result.target[image])

    several = result.logits.shape[-1] > 1
    heights = [0.62] * (images is not None) + [2.0] + [0.22] * several + [1.5] * bool(distances)
    figure = new_figure(8.2, 0.9 + 1.12 * sum(heights), title)
    axes = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True))
    edges = _edges(x)
    if images is not None:
        thumbnails = style.display_images(images)
        if image_values is None:
            image_values = np.linspace(x[0], x[-1], len(thumbnails)).tolist()
        unit = "°" if result.kind == "rotation" else ""
        _draw_thumbnails(axes.pop(0), thumbnails, image_values, edges, unit)

    curve, *rest = axes
    curve.plot(x, probability, color=PALETTE[0], marker=".", markersize=4)
    if result.outputs != "value":
        curve.set_ylim(-0.03, 1.03)
    name = fit(style.class_name(class_names, target, result.logits.shape[-1]), 22, 1)
    source = style.score_source(result.outputs, "\n")
    curve.set_ylabel(style.score_name(result.outputs, name) + source)
    style.y_grid(curve)

    if several:
        colours, legend = style.coloured_labels(labels, probability, target, class_names, 28)
        strip = rest.pop(0)
        strip.pcolormesh(edges, [0, 1], colours[None], rasterized=True)
        strip.set_yticks([])
        strip.set_ylabel("label", rotation=0, ha="right", va="center")
        heading = "largest value" if result.outputs == "value" else "predicted label"
        square = {"handlelength": 1, "handleheight": 1}
        curve.legend(handles=legend, title=heading, **square, **_BESIDE)
    for ax in rest:
        _draw_distances(ax, x, distances)
    axes[-1].set_xlabel(x_label)
    axes[-1].set_xlim(edges[0], edges[-1])
    if result.kind == "rotation":
        axes[-1].xaxis.set_major_locator(MultipleLocator(45))
    return figure


def _abscissa(result: InvarianceResult) -> tuple[Array, str]:
    """The values as one axis: for a translation the coordinate that varies, else the index."""
    values = to_array(result.values).astype(float)
    label = _AXES.get(result.kind, str(result.kind))
    if values.ndim == 1:
        return values, label
    varying = [axis for axis in range(2) if np.ptp(values[:, axis]) > 0]
    if len(varying) > 1:
        return np.arange(len(values), dtype=float), "translation number"
    axis = varying[0] if varying else 0
    return values[:, axis], ("vertical " if axis == 0 else "horizontal ") + label


def _edges(x: Array) -> Array:
    if x.size == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    return np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])


def _draw_thumbnails(
    ax: Axes, thumbnails: Array, values: Sequence[float], edges: Array, unit: str
) -> None:
    """Each thumbnail above its value, or side by side where they would overlap, and captioned."""
    ax.set_yticks([])
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_xlim(edges[0], edges[-1])
    width = (edges[-1] - edges[0]) / (len(thumbnails) + 1)
    places = np.asarray(values, dtype=float)
    if places.size > 1 and np.diff(places).min() < 0.99 * width:
        places = np.linspace(edges[0] + width / 2, edges[-1] - width / 2, len(places))
    for thumbnail, value, place in zip(thumbnails, values, places, strict=True):
        cell = ax.inset_axes(
            (place - width / 2, 0.0, width, 1.0), transform=ax.get_xaxis_transform()
        )
        style.show_image(cell, thumbnail, caption=style.number(value) + unit)


def _draw_distances(ax: Axes, x: Array, distances: dict[str, Array]) -> None:
    for index, (layer, distance) in enumerate(distances.items()):
        finite = distance[np.isfinite(distance)]
        largest = float(finite.max()) if finite.size else float("nan")
        ax.plot(
            x,
            distance / (largest if largest > 0 else 1.0),
            color=(INK, *PALETTE[1:])[index % len(PALETTE)],
            linestyle=style.LINE_STYLES[index % len(style.LINE_STYLES)],
            label=f"{style.fit_name(layer, 20)} (max {style.number(largest)})",
        )
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("feature distance\n(share of maximum)")
    style.y_grid(ax)
    ax.legend(title="layer", labelcolor=INK, edgecolor=MUTED, **_BESIDE)


_COLUMN = 1.5  # inches
WIDTH = 7.0  # inches: the text of a page; a summary of more layers than three takes more
_SUMMARY_PANEL = 1.4  # inches, height of a row
# Of each family: what the row and its x axis are called, and the unit behind an example's value.
_FAMILIES = {
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
    for ax, layer in zip(axes[0], result.layers, strict=False):
        where = style.fold_name(layer, int(12 * width / columns), 3)
        ax.set_title(f"distance at\n{where}", fontsize=8)
    axes[0, -1].set_title(
        style.score_heading(result.outputs, "probability of the class"), fontsize=8
    )
    ends = [_draw_family(row, result, f) for row, f in zip(axes, families, strict=True)]
    low, high = np.min([low for low, _ in ends], 0), np.max([high for _, high in ends], 0)
    for ax, bottom in zip(axes[0, :-1], low, strict=False):
        ax.set_ylim(bottom=min(0, bottom))
    if result.outputs != "value":
        axes[0, -1].set_ylim(min(0, low[-1]) - 0.03, max(1, high[-1]) + 0.03)
        # Below: inside, it would lie on some network's curves.
        figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def _draw_family(axes: Sequence[Axes], result: InvarianceSummary, family: str) -> list[Array]:
    """A row's panels; returns the lower and upper ends of their bands."""
    x = to_array(result.values[family])
    order = np.argsort(x, kind="stable")
    mean, spread = (
        np.vstack([to_array(distances[family]), to_array(answers[family])])[:, order]
        for distances, answers in (
            (result.distances, result.probabilities),
            (result.distance_spread, result.probability_spread),
        )
    )
    low, high = mean - np.nan_to_num(spread), mean + np.nan_to_num(spread)
    *layers, last = axes
    for index, ax in enumerate(axes):
        colour = _PROBABILITY if ax is last else _DISTANCE
        ax.fill_between(x[order], low[index], high[index], color=colour, alpha=0.2, linewidth=0)
        ax.plot(x[order], mean[index], color=colour, linewidth=1.3, label="probability")
    for ax in layers:
        ax.yaxis.set_major_locator(MaxNLocator(4))
    if result.outputs != "value":
        line = {"color": _LABEL, "linewidth": 1.0, "linestyle": "--", "label": "label stays"}
        last.plot(x[order], to_array(result.unchanged[family])[order], **line)
        last.set_yticks([0, 0.5, 1])
    for ax in axes:
        _name_values(ax, family, x, turns=family == "rotation" and np.ptp(x) > 180)
    axes[0].set_ylabel(f"{_FAMILIES.get(family, (family,))[0]}\n", fontweight="bold")
    return [np.nan_to_num(low).min(1), np.nan_to_num(high).max(1)]


def _name_values(ax: Axes, family: str, x: Array, turns: bool, **line: float) -> None:
    """The x axis of a family's values, with a mark at the untransformed image's."""
    unchanged = 1 if family == "scale" else 0
    ax.axvline(unchanged, color=MUTED, linewidth=0.5, linestyle=":", **line)
    if x.size > 1:
        ax.set_xlim(x.min(), x.max())
    ax.set_xlabel(_FAMILIES.get(family, ("", ""))[1], labelpad=1)
    ax.xaxis.set_major_locator(MultipleLocator(90) if turns else MaxNLocator(4))
    style.y_grid(ax, 0.5)


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
    the untransformed image's features; the panels of a column share their y axis. For
    `preprocessing` see :mod:`zfcuda.figures`.
    """
    shown = style.input_pictures(result.images, preprocessing)
    families = list(result.experiments)
    heights = [_STRIP * -(-len(shown) // _IN_A_ROW), _PANEL * len(families) + 0.25]
    figure = new_figure(WIDTH, 0.1 + 0.3 * bool(title) + sum(heights), title)
    strip, panels = figure.add_gridspec(2, 1, height_ratios=heights)
    _draw_images(strip, result, shown, class_names)

    widths = [0.8, *[1.0] * (1 + len(result.layers))]
    cells = panels.subgridspec(len(families), len(widths), width_ratios=widths)
    axes = cells.subplots(squeeze=False, sharey="col")
    room = 72 // (2 + len(result.layers))  # letters
    for ax, layer in zip(axes[0, 1:], result.layers, strict=False):
        ax.set_title(f"distance at\n{style.fit_name(layer, room)}", fontsize=8)
    outputs = result.experiments[families[0]].outputs
    axes[0, 0].set_title("image 1,\ntransformed", fontsize=8)
    axes[0, -1].set_title(style.score_heading(outputs, "probability\nof the class"), fontsize=8)
    for (example, *curves), family in zip(axes, families, strict=True):
        examples = style.input_pictures(result.examples[family], preprocessing)
        _draw_examples(example, result, family, examples)
        _draw_curves(curves, result, family)
    if len(shown) <= _NUMBERED:
        for ax in axes[:, 1:].flat:  # now that shared axes have their limits
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


def _draw_examples(ax: Axes, result: InvarianceStudy, family: str, shown: Array) -> None:
    name, _, unit = _FAMILIES[family]
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_ylabel(name.replace("counter-", "counter-\n"), fontweight="bold")
    values = to_array(result.example_values[family])
    for index, (image, value) in enumerate(zip(shown, values, strict=True)):
        row, column = divmod(index, 2)
        cell = ax.inset_axes((0.51 * column, 0.51 * (1 - row), 0.49, 0.49))
        style.show_image(cell, image)
        cell.set_anchor(("SE", "SW")[column] if row == 0 else ("NE", "NW")[column])
        label = ("+" if "px" in unit and value > 0 else "") + style.number(value) + unit
        size = 6.5 if len(result.layers) < 3 else 5
        outline = [withStroke(linewidth=1.6, foreground="#222222")]
        props = {"color": "white", "fontsize": size, "path_effects": outline}
        cell.text(0.04, 0.05, label.replace("-", "−"), transform=cell.transAxes, **props)


def _draw_curves(axes: Sequence[Axes], result: InvarianceStudy, family: str) -> None:
    """A row's panels: the layers' distances, in the last column the probabilities."""
    experiment = result.experiments[family]
    x = to_array(experiment.values).astype(float)
    x = x.sum(axis=1) if x.ndim == 2 else x  # one of a pair is 0
    order = np.argsort(x, kind="stable")
    *distances, answers = axes
    shown = [experiment.relative_distances(layer) for layer in result.layers]
    for ax, curves in zip(axes, [*shown, experiment.target_probability], strict=True):
        for index, curve in enumerate(to_array(curves)):
            ax.plot(x[order], curve[order], linewidth=1.1, gid=str(index + 1), **_style(index))
        _name_values(ax, family, x, turns=family == "rotation", zorder=0)
    for ax in distances:
        ax.set_ylim(bottom=0, auto=True)  # the rows below may need more
        ax.yaxis.set_major_locator(MaxNLocator(4))
    if experiment.outputs != "value":
        answers.set_ylim(-0.03, 1.03)
        answers.set_yticks([0, 0.5, 1])
    axes[0].set_ylabel("share of norm", labelpad=2)


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
        props = {"color": lines[index].get_color(), "fontsize": 6.5, "fontweight": "bold"}
        place = (1.06 if moved else 1.025, height, lines[index].get_gid())
        ax.text(*place, transform=ax.transAxes, va="center", **props)


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights in 0..1, at least a line of text apart, as near as that goes to where they
    were: the isotonic regression of what is left without the lines between."""
    lines = _LINE * np.arange(len(heights))
    left, count = np.asarray(heights) - lines, len(heights)
    nearest = [
        max(min(left[a:b].mean() for b in range(i + 1, count + 1)) for a in range(i + 1))
        for i in range(count)
    ]
    return (np.clip(nearest, 0, 1 - _LINE * (count - 1)) + lines).tolist()
