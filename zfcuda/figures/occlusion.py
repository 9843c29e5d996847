"""The occlusion row (paper, section 4.2 and figure 7; the talk's figure 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zfcuda.figures import style
from zfcuda.figures.style import NO_DATA, Array, draws, fit, new_figure, to_array
from zfcuda.results.occlusion import OcclusionResult

if TYPE_CHECKING:
    from matplotlib.collections import QuadMesh


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
    labels = style.defined_labels(result.label_map(image), heat)
    target = int(result.target[image])
    known = style.pick_labels(labels, first=target)
    legend = style.label_legend(labels, known, class_names, 26)
    lines = sum(1 + handle.get_label().count("\n") for handle in legend)
    source = style.score_source(result.outputs)
    height = 2.9 + max(1.05 if layer else 0.75, 0.16 * lines) + 0.17 * bool(source)
    figure = new_figure(2.2 * panels, height, title)
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])

    name = style.class_name(class_names, target, result.base_logits.shape[1])
    name = style.score_name(result.outputs, name)
    base = float(to_array(result.base_probabilities)[image, target])
    edges = cell_edges(to_array(result.boxes), result.grid)
    if shown is not None:
        said = f"{name} = {style.number(base)}\nwithout occluder"
        if len(said.splitlines()[0]) > 26:  # a line each
            said = f"{fit(name, 23, 1)}\n= {style.number(base)} without occluder"
        _draw_input(next(axes), result, shown, said)
    if projection is not None:
        style.show_image(
            next(axes),
            style.display_signal(projection)[image],
            "strongest map, projected",
            f"{style.fit_name(str(layer), 26)}\n{_channel(result, layer, image)}",
        )
    limits = _limits(heat, base)
    heading = "value" if result.outputs == "value" else "P(class)"
    heading += style.score_source(result.outputs, "\n")
    mesh = _draw_map(next(axes), heat, edges, result, shown, heading, "viridis", limits)
    label = f"{fit(name, 30, 1)}{_span(heat)}\n▾ without occluder: {style.number(base)}"
    style.colour_bar(mesh.axes, mesh, label, base)

    if several:
        ax = next(axes)
        heading = "largest value" if result.outputs == "value" else "most probable label"
        _draw_map(ax, style.label_colours(labels, known), edges, result, shown, heading)
        ax.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(-0.02, 0.05),
            bbox_transform=style.below(ax),
            borderaxespad=0,
            handlelength=1,
            handleheight=1,
            labelspacing=0.35,
        )
    if layer is not None:
        sums = to_array(result.layer_map(layer, image)).astype(float)
        idle = float(result.layers[layer].base[image])
        limits = _limits(sums, idle)
        title = "strongest map's activity"
        mesh = _draw_map(next(axes), sums, edges, result, shown, title, "cividis", limits)
        name = f"sum of {_channel(result, layer, image)},\n{style.fit_name(layer, 30)}"
        label = f"{name}{_span(sums)}\n▾ without occluder: {style.number(idle)}"
        style.colour_bar(mesh.axes, mesh, label, idle)
    return figure


def _draw_input(ax: Axes, result: OcclusionResult, shown: Array, probability: str) -> None:
    height, width = result.size
    down, right = result.stride
    caption = f"{probability}\noccluder {height}×{width} px,\nstep {down}×{right} px"
    style.show_image(ax, shown, "input, one occluder drawn", caption)
    _draw_occluder(ax, result, style.scale_of(shown, *result.image_size))


def _span(values: Array) -> str:
    """Of a map's finite values the least and the largest, on a line of their own."""
    known = values[np.isfinite(values)]
    if not known.size:
        return ""
    low, high = style.number(known.min()), style.number(known.max())
    return f"\n{low} everywhere" if low == high else f"\n{low} to {high}"


def _limits(values: Array, mark: float) -> tuple[float, float]:
    """A colour bar's ends: those of the finite values and the mark, never equal."""
    shown = np.append(values[np.isfinite(values)], mark if np.isfinite(mark) else [])
    low, high = float(shown.min(initial=np.inf)), float(shown.max(initial=-np.inf))
    if not np.isfinite(low) or not np.isfinite(high):
        return 0.0, 1.0
    return low, high if high > low else low + max(abs(low), 1.0) * 1e-3


def _channel(result: OcclusionResult, layer: str | None, image: int) -> str:
    return f"map {int(result.layers[layer].channels[image])}"


def cell_edges(boxes: Array, grid: tuple[int, int]) -> tuple[Array, Array]:
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


def _draw_occluder(ax: Axes, result: OcclusionResult, scale: tuple[float, float]) -> None:
    """The occluder of the grid's middle position, filled grey and outlined, to scale."""
    rows, cols = result.grid
    box = style.scaled(to_array(result.boxes)[(rows // 2) * cols + cols // 2], scale)
    for face, edge, width in (("#808080", "white", 2.2), ("none", "black", 0.9)):
        style.add_box(ax, box, facecolor=face, edgecolor=edge, linewidth=width)


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
        ax.imshow(
            background.mean(axis=-1),
            cmap="gray",
            alpha=0.35,
            extent=(0, width, height, 0),
            vmin=0,
            vmax=1,
        )
    if values.ndim == 2 and not np.isfinite(values).all():
        title += "\n(grey: not a number)"
    mesh = draw_cells(ax, values, edges, result.image_size, colours, limits)
    ax.set_facecolor(NO_DATA if values.ndim == 2 and background is None else "white")
    ax.set_title(title)
    ax.set_xlabel("occluder centre, x (px)")
    ax.set_ylabel("y (px)", labelpad=1)
    ax.locator_params(nbins=5)
    return mesh


def draw_cells(
    ax: Axes,
    values: Array,
    edges: tuple[Array, Array],
    size: tuple[int, int],
    colours: str,
    limits: tuple[float, float],
) -> QuadMesh:
    """A grid of values (or of RGB colours) on axes of an input's size, grey where there is none."""
    mesh = ax.pcolormesh(
        edges[1],
        edges[0],
        np.ma.masked_invalid(values) if values.ndim == 2 else values,
        cmap=mpl.colormaps[colours].with_extremes(bad=NO_DATA),
        vmin=limits[0],
        vmax=limits[1],
        rasterized=True,
    )
    ax.set(xlim=(0, size[1]), ylim=(size[0], 0), aspect="equal")
    return mesh
