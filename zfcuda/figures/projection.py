"""Projections into the image: one row per layer, one column per input (or per unit); and what the
background contributes to them (the talk's figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.predictions import BackgroundResult
from zfcuda.results.projections import Patches, Projections

if TYPE_CHECKING:
    from torch import Tensor


CELL = 1.85  # inches
# Okabe and Ito's colours that are dark enough for text on white.
_LAYER_COLOURS = ("#0072B2", "#C24F00", "#00805D", "#A8508A", "#222222")


def layer_colour(index: int) -> str:
    """Of a figure's layers, each its own as far as they reach."""
    return _LAYER_COLOURS[index % len(_LAYER_COLOURS)]


def name_row(ax: Axes, layer: str, letters: int, index: int) -> None:
    """A layer's name in its colour, left of its row, which `ax` begins."""
    ax.set_ylabel(style.fit_name(layer, letters), color=layer_colour(index), fontweight="bold")


def unit_caption(
    result: Any, layer: str, column: int, class_names: Sequence[str] | None = None
) -> str:
    """ "map 12 at (3, 4), activation 5.1" of one projected unit; of a layer of vectors "unit 12",
    with the class's name where there is one for each."""
    channel, row, col = (int(v) for v in to_array(result.units[layer])[column])
    activation = style.number(to_array(result.activations[layer])[column])
    size = result.sizes.get(layer)
    place = f"map {channel} at ({row}, {col})"
    if is_of_vectors(size):
        place = f"unit {channel}"
        if class_names is not None and len(class_names) == size[0]:
            place = fit(f"{place}: {style.class_name(class_names, channel)}", 24, 1)
    return f"{place}\nactivation {activation}"


def is_of_vectors(size: Sequence[int] | None) -> bool:
    """Whether a layer of (maps, rows, columns), if that is known, has one element a map."""
    return size is not None and tuple(size[1:]) == (1, 1)


def _support(shown: Array) -> tuple[int, int, int, int] | None:
    """The square (y0, x0, y1, x1) around what a displayed projection shows; None if nothing."""
    height, width = shown.shape[:2]
    rows, cols = np.nonzero(np.abs(shown - 0.5).max(axis=-1) > 0.02)
    if not rows.size:
        return None
    side = int(min(max(np.ptp(rows), np.ptp(cols)) + 3, height, width))
    top = int(np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, height - side))
    left = int(np.clip((cols.min() + cols.max() + 1 - side) // 2, 0, width - side))
    return top, left, top + side, left + side


def mark_support(
    ax: Axes, shown: Array, colour: str, above: Axes | None = None, picture: Array | None = None
) -> None:
    """Outline what a projection shows in `ax`, and in the axes `above` with the input's `picture`.

    One much smaller than the image is shown once more, enlarged, above its patch of the picture:
    early layers see a few pixels, and true to scale, their projection is a speck.
    """
    box = _support(shown)
    if box is None:
        return
    (height, width), (_, x0, _, x1) = shown.shape[:2], box
    if x1 - x0 <= 0.3 * min(height, width):
        x = 0.02 if x0 + x1 > width else 0.59
        for y, whole in ((0.59, shown), (0.02, picture)):
            if whole is not None:
                inset = ax.inset_axes((x, y, 0.39, 0.39))
                style.show_image(inset, style.cut_out(whole, box, height, width))
                inset.spines[:].set(visible=True, color="white", linewidth=0.8)
    _outline(ax, box, colour)
    if above is not None:
        there = box if picture is None else style.box_on(picture, box, height, width)
        _outline(above, there, colour)


def _outline(ax: Axes, box: Sequence[float], colour: str) -> None:
    """Thin lines, readable on any picture; whole where they lie at its edge, which would cut off
    half of them."""
    for edge, width in (("white", 1.6), (colour, 0.9)):
        style.add_box(ax, box, fill=False, edgecolor=edge, linewidth=width, clip_on=False)


@draws(Projections)
def projection_grid(
    result: Projections,
    images: Array | None = None,
    projections: Mapping[str, Array] | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Figure:
    """Deconvnet projections: rows are layers, columns inputs, each with its unit and activation.
    Squares in a layer's colour mark, in the input and in the projection, what its unit saw.

    `images` are ``[V,H,W,3]`` in 0..1 (the inputs, drawn on top), `projections` display arrays a
    layer; for `preprocessing`, without which no inputs of the result's own are drawn, see
    :mod:`zfcuda.figures`. Zero signal is mid grey.
    Units of a layer that has as many as there are `class_names` are called by these too.
    """
    if preprocessing is not None and images is None:
        images = preprocessing.to_display(result.images)
    pictures = None if images is None else style.display_images(images)
    signals = style.signal_pictures(result.projections, preprocessing, projections)
    top, headings = int(pictures is not None), [fit(name, 20) for name in result.columns]
    rows, columns = len(result.layers) + top, len(headings)
    figure = new_figure(0.45 + CELL * max(columns, 2), 0.3 + (CELL + 0.42) * rows, title)
    axes = figure.subplots(rows, columns, squeeze=False)
    if pictures is not None:
        for ax, picture, heading in zip(axes[0], pictures, headings, strict=True):
            style.show_image(ax, picture, heading)
        axes[0][0].set_ylabel("network input")
    for row, layer in enumerate(result.layers, start=top):
        shown = signals[layer]
        for column, ax in enumerate(axes[row]):
            caption = unit_caption(result, layer, column, class_names)
            style.show_image(ax, shown[column], "" if row else headings[column], caption)
            given = () if pictures is None else (axes[0][column], pictures[column])
            mark_support(ax, shown[column], layer_colour(row - top), *given)
        name_row(axes[row][0], layer, 26, row - top)
    return figure


PANEL = 3.4  # inches


def mosaic(cells: list[Array], columns: int, empty: float) -> Array:
    """Pictures [h,w,3] of any sizes, each in the middle of its cell, row by row."""
    height, width = (max(1, *(cell.shape[axis] for cell in cells)) for axis in (0, 1))
    gap = 1 + max(height, width) // 24
    rows = -(-len(cells) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        place = canvas[row * (height + gap) :, column * (width + gap) :][:height, :width]
        place[:] = empty
        top, left = (height - cell.shape[0]) // 2, (width - cell.shape[1]) // 2
        place[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return canvas


def displayed(patch: Tensor, preprocessing: Preprocessing) -> Array:
    """A projection [C,h,w] as a picture [h,w,3], zero at mid grey; grey unless C is 3."""
    colours = patch if len(patch) == 3 else patch.mean(0, keepdim=True).expand(3, -1, -1)
    return preprocessing.signal_to_display(colours[None])[0]


@draws(Patches)
def projection_patches(
    result: Patches,
    images: Array | None = None,
    most: int = 64,
    title: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Figure:
    """Units by layer: their projections, each stretched on its own with zero at mid grey, and
    beside them the same patches of their images.

    For `preprocessing` see :mod:`zfcuda.figures`; without it the images, which are no pictures as
    the network takes them, are left out unless given as `images` ``[N,H,W,3]`` in 0..1. Of a
    layer's units the first `most` are shown.
    """
    if images is None and preprocessing is not None:
        images = preprocessing.to_display(result.images)
    pictures = None if images is None else style.display_images(images)
    unknown = preprocessing is None and result.images.shape[1] == 3
    headings = ["projections (network channels as RGB)" if unknown else "projections"]
    headings += [] if pictures is None else ["image patches"]
    width = 0.4 + PANEL * len(headings)
    figure = new_figure(width, 0.3 + (PANEL + 0.35) * len(result.layers), title)
    axes = figure.subplots(len(result.layers), len(headings), squeeze=False)
    for ax, heading in zip(axes[0], headings, strict=True):
        ax.set_title(heading)
    for row, layer in enumerate(result.layers):
        units = result.of(layer).tolist()
        some = units[:most]
        columns = int(np.ceil(np.sqrt(len(some))))
        signals = [displayed(result.patch(i), preprocessing or Preprocessing()) for i in some]
        count = str(len(units)) if len(some) == len(units) else f"{len(some)} of {len(units)}"
        strongest = style.number(float(result.activations[units].max()))
        caption = f"{count} units, strongest activation {strongest}"
        style.show_image(axes[row][0], mosaic(signals, columns, 0.5), caption=caption)
        if pictures is not None:
            seen = []
            for unit in some:
                picture = pictures[int(result.image[unit])]
                box = result.boxes[unit].tolist()
                seen.append(style.cut_out(picture, box, *result.images.shape[-2:]))
            style.show_image(axes[row][1], mosaic(seen, columns, 0.5))
        name_row(axes[row][0], layer, 40, row)
    return figure


WIDTH = 7.0  # inches: the text of a page
_OTHER = "#c9d9e6"  # bars of all classes but the target


@draws(BackgroundResult)
def background_effect(
    result: BackgroundResult,
    images: Array | None = None,
    projections: Mapping[str, Array] | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
    k: int = 5,
    preprocessing: Preprocessing | None = None,
) -> Figure:
    """A column for each variant of the image: its `k` most probable classes, the change of the
    target's probability, and for each layer the projection with what has become of it.

    "moved" is the relative L2 change of a projection against the original's, "on object" the share
    of its energy that lies on the object. Squares mark what a unit saw. `images` and `projections`
    are display arrays ``[V,H,W,3]``; for `preprocessing` see :mod:`zfcuda.figures`.
    """
    shown = style.input_pictures(result.images, preprocessing, images)
    signals = style.signal_pictures(result.projections, preprocessing, projections)
    columns = len(result.variants)
    cell = min((WIDTH - 0.35) / columns, 1.9)
    k = min(k, result.logits.shape[-1])
    # All pictures' rows alike, so that squares lie at one place in an input and its projections.
    heights = [cell + 0.45, 0.22 * k + 0.4, *[cell + 0.45] * len(signals)]
    figure = new_figure(WIDTH, 0.1 + 0.3 * bool(title) + sum(heights), title)
    axes = figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
    room = int(15 * cell)  # characters

    for column, variant in enumerate(result.variants):
        style.show_image(axes[0][column], shown[column], fit(variant, room - 4, 1))
        _draw_classes(axes[1][column], result, column, k, class_names, room)
    axes[0][0].set_ylabel("network input")
    axes[1][0].set_ylabel(f"top {k}")
    for row, (layer, signal) in enumerate(signals.items(), start=2):
        colour = layer_colour(row - 2)
        for column, ax in enumerate(axes[row]):
            style.show_image(ax, signal[column], caption=_caption(result, layer, column))
            ax.xaxis.label.set_fontsize(6.8)
            mark_support(ax, signal[column], colour, axes[0][column], shown[column])
        name_row(axes[row][0], layer, int(14 * cell) + 4, row - 2)
    return figure


def _draw_classes(
    ax: Axes,
    result: BackgroundResult,
    column: int,
    k: int,
    class_names: Sequence[str] | None,
    room: int,
) -> None:
    """One variant's most probable classes, names above their bars; below, the target's change."""
    probabilities = to_array(result.probabilities).astype(float)
    p = probabilities[column]
    full = 1.0
    if result.outputs == "value":  # bars are shares of the largest one
        full = float(np.abs(probabilities[np.isfinite(probabilities)]).max(initial=0)) or 1.0
    ax.set(xlim=(0, 1), ylim=(k - 0.35, -0.75), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if np.isnan(p).any():
        ax.text(0.5, k / 2 - 0.5, "not a number", ha="center", va="center", color=MUTED)
        return
    for row, label in enumerate(np.argsort(-p, kind="stable")[:k]):
        target = int(label) == result.target
        ax.barh(row, 1, height=0.2, color="#f0f0f0")
        ax.barh(row, max(p[label] / full, 0), height=0.2, color=PALETTE[0] if target else _OTHER)
        weight = "bold" if target else "normal"
        name = style.class_name(class_names, int(label), len(p))
        name = fit(name or "the output", room - 4, 1)
        props = {"fontsize": 6.5, "fontweight": weight, "va": "bottom"}
        ax.text(0, row - 0.14, name, ha="left", **props)
        ax.text(1, row - 0.14, f"{p[label]:.2f}", ha="right", **props)
    name = fit(style.class_name(class_names, result.target, len(p)), room - 9, 1)
    name = style.score_name(result.outputs, name)
    letter = "value" if result.outputs == "value" else "P"
    source = style.score_source(result.outputs, "\n")
    text = f"{name} {p[result.target]:.2f}{source}"
    if column:
        change = round(p[result.target] - probabilities[0][result.target], 2)
        text = f"{letter} {p[result.target]:.2f} ({change or 0:+.2f})".replace("-", "−")
    ax.set_xlabel(text, fontsize=6.8, color=PALETTE[0], labelpad=1)


def _caption(result: BackgroundResult, layer: str, column: int) -> str:
    """What a projection shows and how far it is from the original's."""
    channel = int(to_array(result.units[layer])[column][0])
    activation = style.number(to_array(result.activations[layer])[column])
    change = float(to_array(result.projection_change[layer])[column])
    if column == 0:
        moved = "the reference"
    else:
        moved = "no reference" if np.isnan(change) else f"moved {change:.0%}"
    kind = "unit" if is_of_vectors(result.sizes.get(layer)) else "map"
    lines = [f"{kind} {channel}: {activation}", moved]
    if layer in result.on_object:
        share = float(to_array(result.on_object[layer])[column])
        lines.append("" if np.isnan(share) else f"{share:.0%} on object")
    return "\n".join(lines)
