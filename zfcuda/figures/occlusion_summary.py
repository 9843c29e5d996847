"""Occlusion over a data set: which classes depend on single places, and the images that do most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.occlusion import cell_edges, draw_cells
from zfcuda.figures.style import (
    INK,
    MUTED,
    NO_DATA,
    PALETTE,
    Array,
    draws,
    fit,
    new_figure,
    to_array,
)
from zfcuda.results.occlusion import OcclusionSummary

WIDTH = 7.2  # inches: the text of a page
_CLASSES = 12  # bars; of more classes the most and the least sensitive ones
_COLUMNS = 5
_UPPER = 2.7  # inches, height of the first row
_LABELS, _SIDE, _COLUMN = 0.95, 0.9, 1.12  # inches: of an image and its map, what is not picture;
# the most that either is high; how wide it is
_CAPTION = 1.0  # inches, about the width of a caption
_MOST, _LEAST = PALETTE[5], PALETTE[0]


@draws(OcclusionSummary)
def occlusion_summary(
    result: OcclusionSummary,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Figure:
    """The mean drop of each class, every image's largest drop against its localisation, and the
    most and least localised images with their maps of P(target).

    `class_names` are the network's, for the targets. `images` ``[S,H,W,3]`` in 0..1 show
    ``result.images``; `preprocessing`, the network's (:func:`zfcuda.models.preprocessing`), makes
    them; without either inputs of three channels are coloured, stretched to 0..1, others grey.
    """
    kinds = [
        ("most localised", _MOST, range(result.most)),
        ("least localised", _LEAST, range(result.most, len(result.shown))),
    ]
    kinds = [kind for kind in kinds if len(kind[2])]
    height, width = result.image_size
    heights = [_UPPER, *[_LABELS + 2 * min(_SIDE, _COLUMN * height / width)] * len(kinds)]
    figure = new_figure(WIDTH, 0.1 + 0.3 * bool(title) + sum(heights), title)
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    left, right = rows[0].subgridspec(1, 2, width_ratios=[1.15, 1])
    _draw_classes(figure.add_subplot(left), result, class_names)
    _draw_images(figure.add_subplot(right), result)
    shown = style.input_pictures(result.images, preprocessing, images)
    for row, (name, colour, members) in enumerate(kinds, 1):
        _draw_extremes(
            rows[row], result, shown, class_names, members, f"{'bcd'[row]}  {name}", colour
        )
    return figure


def _outputs_of(result: OcclusionSummary) -> int | None:
    """How many outputs the network has, where that is known."""
    return 1 if result.outputs in ("logit", "probability") else None


def _draw_classes(ax: Axes, result: OcclusionSummary, class_names: Sequence[str] | None) -> None:
    """A bar a class, the most sensitive one on top, with its spread and its number of images."""
    classes = result.classes
    if len(classes) > _CLASSES:
        half = _CLASSES // 2
        classes = [*classes[:half], *classes[-half:]]
    names = result.class_names if result.labelled else class_names
    count = None if result.labelled else _outputs_of(result)
    called = [style.class_name(names, one.label, count) or "the output" for one in classes]
    place = np.arange(len(classes))[::-1]
    spread = np.nan_to_num([one.spread for one in classes])
    ax.barh(
        place, [one.mean for one in classes], height=0.7, color=PALETTE[4],
        xerr=spread, error_kw={"elinewidth": 0.8, "ecolor": MUTED},
    )  # fmt: skip
    ax.set_yticks(
        place,
        [f"{fit(c, 18, 1)} ({one.count:,})" for c, one in zip(called, classes, strict=True)],
    )
    if len(classes) < 4:
        ax.set_ylim(len(classes) - 4.5, len(classes) - 0.5)  # bars, not blocks
    if len(result.classes) > _CLASSES:
        ax.axhline(len(classes) / 2 - 0.5, color=MUTED, linewidth=0.6, linestyle=":")
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color=MUTED, linewidth=0.6)
    score, *source = _score(result).split("\n")
    ax.set_xlabel("\n".join([f"mean drop of {score}, ± spread over images", *source]))
    style.panel_title(ax, "a  sensitivity of the classes (images)")


def _score(result: OcclusionSummary) -> str:
    source = style.score_source(result.outputs, "\n")
    return "value" if result.outputs == "value" else "P(class)" + source


def _draw_images(ax: Axes, result: OcclusionSummary) -> None:
    """A dot an image; those below are marked."""
    x, y = to_array(result.localisation), to_array(result.largest)
    ax.scatter(
        x, y, s=5 if x.size < 2000 else 1.5, color=MUTED, alpha=0.5 if x.size < 2000 else 0.25,
        linewidths=0, rasterized=True,
    )  # fmt: skip
    shown = to_array(result.shown)
    for colour, some in ((_MOST, shown[: result.most]), (_LEAST, shown[result.most :])):
        ax.scatter(x[some], y[some], s=16, facecolors="none", edgecolors=colour, linewidths=1.0)
    ax.axhline(result.telling, color=INK, linewidth=0.6, linestyle=":")
    ax.set_xlim(-0.03, 1.03)
    if result.outputs != "value":
        ax.set_ylim(min(-0.03, float(np.nanmin(y, initial=0))), 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("localisation: 1 − (Σw)² / (P Σw²),\nw = max(0, drop)")
    ax.set_ylabel(f"largest drop of {_score(result)}")
    style.panel_title(ax, f"b  {x.size:,} image{'s' * (x.size != 1)}")


def _draw_extremes(
    spec: SubplotSpec,
    result: OcclusionSummary,
    shown: Array,
    class_names: Sequence[str] | None,
    members: Sequence[int],
    title: str,
    colour: str,
) -> None:
    """Images in a row, below each the map of P(target), all on one scale."""
    figure = spec.get_gridspec().figure
    # The heading has axes of its own: it is longer than the first column is wide.
    head, panels = spec.subgridspec(2, 1, height_ratios=[0.05, 1])
    heading = figure.add_subplot(head)
    heading.axis("off")
    style.panel_title(heading, f"{title}, maps of {_score(result)}".replace("\n", " "))
    cells = panels.subgridspec(2, _COLUMNS)
    edges = cell_edges(to_array(result.boxes), result.grid)
    for column, member in enumerate(members):
        index = int(result.shown[member])
        above = figure.add_subplot(cells[0, column])
        style.show_image(above, shown[member])
        above.set_title(style.fit_ends(result.names[index].rpartition("/")[2], 18), fontsize=7)
        above.spines[:].set(visible=True, edgecolor=colour, linewidth=1.2)
        scale = style.scale_of(shown[member], *result.image_size)
        box = style.scaled(to_array(result.strongest)[index], scale)
        for edge, width in (("white", 2.0), ("black", 0.8)):  # the occluder that takes away most
            style.add_box(above, box, facecolor="none", edgecolor=edge, linewidth=width)
        ax = figure.add_subplot(cells[1, column])
        mesh = _draw_map(ax, to_array(result.maps)[member].astype(float), edges, result)
        name = style.class_name(class_names, int(result.target[index]), _outputs_of(result))
        name = fit(name or "the output", 18, 1)
        letter = "" if result.outputs == "value" else "P "
        ax.set_xlabel(
            f"{name}\n{letter}{style.number(result.probability[index])} → "
            f"{style.number(result.probability[index] - result.largest[index])}\n"
            f"localisation {float(result.localisation[index]):.0%}",
            fontsize=7,
        )
        if column == len(members) - 1:
            bar = figure.colorbar(mesh, cax=_beside(ax, result.image_size))
            bar.outline.set_linewidth(0.4)


def _beside(ax: Axes, size: tuple[int, int]) -> Axes:
    """Axes of a colour bar, right of a map and its caption. Hung on the map: a bar with a place of
    its own would narrow the maps' row alone."""
    width = min(_COLUMN, _SIDE * size[1] / size[0])
    shift = ScaledTranslation(0.1 + max(0, _CAPTION - width) / 2, 0, ax.figure.dpi_scale_trans)
    return ax.inset_axes((1, 0, 0.06 / width, 1), transform=ax.transAxes + shift)


def _draw_map(
    ax: Axes, values: Array, edges: tuple[Array, Array], result: OcclusionSummary
) -> QuadMesh:
    low, high = 0.0, 1.0
    if result.outputs == "value":
        maps = to_array(result.maps).astype(float)
        low, high = np.nanmin(maps), np.nanmax(maps)
    ax.set(xticks=[], yticks=[], facecolor=NO_DATA)
    return draw_cells(ax, values, edges, result.image_size, "viridis", (low, high))
