"""Occlusion of an image (paper, section 4.2, figure 7; the talk's figure 5) and of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation, Transform

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import MUTED, NO_DATA, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.occlusion import OcclusionResult, OcclusionSummary


@draws(OcclusionResult)
def occlusion_row(
    result: OcclusionResult,
    images: Array | None = None,
    projections: Mapping[str, Array] | None = None,
    class_names: Sequence[str] | None = None,
    image: int = 0,
    layer: str | None = None,
    title: str | None = None,
) -> Figure:
    """Input, strongest map's projection, P(target class), most probable label, map activity.

    Of a network with one output there is no label to show, of a regression there are its values.
    `images` ``[N,H,W,3]`` in 0..1 (the inputs, or the same larger or smaller) and `projections` (a
    layer's ``[N,H,W,3]``) are display arrays; panels without data are left out. `layer` is one of
    `result.layers`, by default the first.
    The maps are drawn in input pixels, each cell at the centre of its occluder, over the image.
    """
    if layer is None:
        layer = next(iter(result.layers), None)
    elif layer not in result.layers:
        raise KeyError(f"layer {layer!r} is not among the result's layers {list(result.layers)}")
    shown = None if images is None else style.display_images(images)[image]
    projection = None if projections is None else projections.get(layer or "")

    several = result.base_logits.shape[1] > 1
    panels = 1 + several + sum(part is not None for part in (shown, projection, layer))
    heat = to_array(result.heatmap(image)).astype(float)
    labels, target = result.label_map(image), int(result.target[image])
    colours, legend = style.coloured_labels(labels, heat, target, class_names, 26)
    lines = sum(1 + handle.get_label().count("\n") for handle in legend)
    source = style.score_source(result.outputs)
    height = 2.9 + max(1.05 if layer else 0.75, 0.16 * lines) + 0.17 * bool(source)
    figure = new_figure(2.2 * panels, height, title)
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])

    name = style.class_name(class_names, target, result.base_logits.shape[1])
    name = style.score_name(result.outputs, name)
    base = float(to_array(result.base_probabilities)[image, target])
    edges = _cell_edges(to_array(result.boxes), result.grid)
    if shown is not None:
        said = f"{name} = {style.number(base)}\nwithout occluder"
        if len(said.splitlines()[0]) > 26:  # a line each
            said = f"{fit(name, 23, 1)}\n= {style.number(base)} without occluder"
        _draw_input(next(axes), result, shown, said)
    if projection is not None:
        picture = style.display_signal(projection)[image]
        caption = f"{style.fit_name(str(layer), 26)}\n{_channel(result, layer, image)}"
        style.show_image(next(axes), picture, "strongest map, projected", caption)
    limits, heading = _limits(heat, base), style.score_heading(result.outputs)
    mesh = _draw_map(next(axes), heat, edges, result, shown, heading, "viridis", limits)
    _colour_bar(mesh, fit(name, 30, 1), heat, base)

    if several:
        ax = next(axes)
        heading = "largest value" if result.outputs == "value" else "most probable label"
        _draw_map(ax, colours, edges, result, shown, heading)
        place = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0.05), "borderaxespad": 0}
        square = {"handlelength": 1, "handleheight": 1, "labelspacing": 0.35}
        ax.legend(handles=legend, bbox_transform=_below(ax), **place, **square)
    if layer is not None:
        sums = to_array(result.layer_map(layer, image)).astype(float)
        idle = float(result.layers[layer].base[image])
        limits = _limits(sums, idle)
        title = "strongest map's activity"
        mesh = _draw_map(next(axes), sums, edges, result, shown, title, "cividis", limits)
        name = f"sum of {_channel(result, layer, image)},\n{style.fit_name(layer, 30)}"
        _colour_bar(mesh, name, sums, idle)
    return figure


def _draw_input(ax: Axes, result: OcclusionResult, shown: Array, probability: str) -> None:
    height, width = result.size
    down, right = result.stride
    caption = f"{probability}\noccluder {height}×{width} px,\nstep {down}×{right} px"
    style.show_image(ax, shown, "input, one occluder drawn", caption)
    rows, columns = result.grid
    middle = to_array(result.boxes)[rows // 2 * columns + columns // 2]
    box = style.box_on(shown, middle, *result.image_size)
    for face, edge, width in (("#808080", "white", 2.2), ("none", "black", 0.9)):
        style.add_box(ax, box, facecolor=face, edgecolor=edge, linewidth=width)


def _below(ax: Axes) -> Transform:
    """Axes coordinates, moved down past the labels of the x axis by a fixed length.

    A length, since a share of the axes' height would run into the labels where the axes are small.
    """
    return ax.transAxes + ScaledTranslation(0, -0.62, ax.figure.dpi_scale_trans)


def _colour_bar(mesh: QuadMesh, name: str, values: Array, mark: float) -> None:
    """A horizontal colour bar hung under a map, so that all panels of a row keep one size.

    A triangle stands at `mark`, the value without any perturbation.
    """
    cax = mesh.axes.inset_axes((0.0, 0.0, 1.0, 0.05), transform=_below(mesh.axes))
    bar = mesh.figure.colorbar(
        mesh, cax=cax, orientation="horizontal", format=lambda value, _: style.number(value)
    )
    bar.set_label(f"{name}{_span(values)}\n▾ without occluder: {style.number(mark)}")
    if np.isfinite(mark):
        bar.ax.plot([mark], [1.6], marker="v", color=style.INK, markersize=3.5, clip_on=False)
    bar.outline.set_linewidth(0.4)
    bar.ax.locator_params(nbins=4)


def _span(values: Array) -> str:
    """Of a map's finite values the least and the largest, on a line of their own."""
    known = values[np.isfinite(values)]
    if not known.size:
        return ""
    low, high = style.number(known.min()), style.number(known.max())
    return f"\n{low} everywhere" if low == high else f"\n{low} to {high}"


def _limits(values: Array, mark: float) -> tuple[float, float]:
    """A colour bar's ends: those of the finite values and the mark, never equal."""
    shown = np.append(values, mark)
    shown = shown[np.isfinite(shown)]
    if not shown.size:
        return 0.0, 1.0
    low, high = float(shown.min()), float(shown.max())
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def _channel(result: OcclusionResult, layer: str | None, image: int) -> str:
    return f"map {int(result.layers[layer].channels[image])}"


def _cell_edges(boxes: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
    """Edges of the map's cells (y, x), pixels: halfway between neighbouring occluders' centres."""
    boxes = boxes.reshape(*grid, 4).astype(float)
    return (
        _edges((boxes[:, 0, 0] + boxes[:, 0, 2]) / 2, boxes[0, 0, 2] - boxes[0, 0, 0]),
        _edges((boxes[0, :, 1] + boxes[0, :, 3]) / 2, boxes[0, 0, 3] - boxes[0, 0, 1]),
    )


def _edges(centres: Array, lone: float) -> Array:
    if centres.size == 1:
        return np.array([centres[0] - lone / 2, centres[0] + lone / 2])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _draw_map(
    ax: Axes,
    values: Array,
    edges: tuple[Array, Array],
    result: OcclusionResult,
    background: Array | None,
    title: str,
    colours: str = "viridis",
    limits: tuple[float, float] = (0.0, 1.0),
) -> QuadMesh:
    """A grid of values (or of RGB colours) in pixel coordinates, the image faint around it."""
    height, width = result.image_size
    if background is not None:
        faint = {"cmap": "gray", "alpha": 0.35, "vmin": 0, "vmax": 1}
        ax.imshow(background.mean(axis=-1), extent=(0, width, height, 0), **faint)
    if values.ndim == 2 and not np.isfinite(values).all():
        title += "\n(grey: not a number)"
    mesh = _draw_cells(ax, values, edges, result.image_size, colours, limits)
    ax.set_facecolor(NO_DATA if values.ndim == 2 and background is None else "white")
    ax.set_title(title)
    ax.set_xlabel("occluder centre, x (px)")
    ax.set_ylabel("y (px)", labelpad=1)
    ax.locator_params(nbins=5)
    return mesh


def _draw_cells(
    ax: Axes,
    values: Array,
    edges: tuple[Array, Array],
    size: tuple[int, int],
    colours: str,
    limits: tuple[float, float],
) -> QuadMesh:
    """A grid of values (or of RGB colours) on axes of an input's size, grey where there is none."""
    shown = np.ma.masked_invalid(values) if values.ndim == 2 else values
    cmap = mpl.colormaps[colours].with_extremes(bad=NO_DATA)
    (y, x), (low, high) = edges, limits
    mesh = ax.pcolormesh(x, y, shown, cmap=cmap, vmin=low, vmax=high, rasterized=True)
    ax.set(xlim=(0, size[1]), ylim=(size[0], 0), aspect="equal")
    return mesh


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
    ``result.images``; for `preprocessing` see :mod:`zfcuda.figures`.
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
    score, *source = style.score_heading(result.outputs).split("\n")
    ax.set_xlabel("\n".join([f"mean drop of {score}, ± spread over images", *source]))
    style.panel_title(ax, "a  sensitivity of the classes (images)")


def _draw_images(ax: Axes, result: OcclusionSummary) -> None:
    x, y = to_array(result.localisation), to_array(result.largest)
    ax.scatter(
        x, y, s=5 if x.size < 2000 else 1.5, color=MUTED, alpha=0.5 if x.size < 2000 else 0.25,
        linewidths=0, rasterized=True,
    )  # fmt: skip
    shown = to_array(result.shown)
    for colour, some in ((_MOST, shown[: result.most]), (_LEAST, shown[result.most :])):
        ax.scatter(x[some], y[some], s=16, facecolors="none", edgecolors=colour, linewidths=1.0)
    ax.axhline(result.telling, color=style.INK, linewidth=0.6, linestyle=":")
    ax.set_xlim(-0.03, 1.03)
    if result.outputs != "value":
        ax.set_ylim(min(-0.03, float(np.nanmin(y, initial=0))), 1.03)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set_xlabel("localisation: 1 − (Σw)² / (P Σw²),\nw = max(0, drop)")
    ax.set_ylabel(f"largest drop of {style.score_heading(result.outputs)}")
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
    figure = spec.get_gridspec().figure
    # The heading has axes of its own: it is longer than the first column is wide.
    head, panels = spec.subgridspec(2, 1, height_ratios=[0.05, 1])
    heading = figure.add_subplot(head)
    heading.axis("off")
    style.panel_title(
        heading, f"{title}, maps of {style.score_heading(result.outputs)}".replace("\n", " ")
    )
    cells = panels.subgridspec(2, _COLUMNS)
    edges = _cell_edges(to_array(result.boxes), result.grid)
    maps, limits = to_array(result.maps).astype(float), (0.0, 1.0)
    if result.outputs == "value":
        limits = np.nanmin(maps), np.nanmax(maps)
    for column, member in enumerate(members):
        index = int(result.shown[member])
        above = figure.add_subplot(cells[0, column])
        style.show_image(above, shown[member])
        above.set_title(style.fit_ends(result.names[index].rpartition("/")[2], 18), fontsize=7)
        above.spines[:].set(visible=True, edgecolor=colour, linewidth=1.2)
        strongest = to_array(result.strongest)[index]
        box = style.box_on(shown[member], strongest, *result.image_size)
        for edge, width in (("white", 2.0), ("black", 0.8)):  # the occluder that takes away most
            style.add_box(above, box, facecolor="none", edgecolor=edge, linewidth=width)
        ax = figure.add_subplot(cells[1, column])
        ax.set(xticks=[], yticks=[], facecolor=NO_DATA)
        mesh = _draw_cells(ax, maps[member], edges, result.image_size, "viridis", limits)
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
