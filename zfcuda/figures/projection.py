"""Projections into the image: one row per layer, one column per input (or per unit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.style import Array, draws, fit, new_figure, to_array
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


def support(shown: Array) -> tuple[int, int, int] | None:
    """The square (top, left, side) around what a displayed projection shows; None if nothing."""
    height, width = shown.shape[:2]
    rows, cols = np.nonzero(np.abs(shown - 0.5).max(axis=-1) > 0.02)
    if not rows.size:
        return None
    side = int(min(max(np.ptp(rows), np.ptp(cols)) + 3, height, width))
    top = int(np.clip((rows.min() + rows.max() + 1 - side) // 2, 0, height - side))
    left = int(np.clip((cols.min() + cols.max() + 1 - side) // 2, 0, width - side))
    return top, left, side


def magnify(ax: Axes, shown: Array, image: Array | None, square: tuple[int, int, int]) -> None:
    """Show a projection much smaller than the image once more, enlarged, above its image patch.

    Early layers see a few pixels: true to scale, their projection is a speck.
    """
    top, left, side = square
    height, width = shown.shape[:2]
    if side > 0.3 * min(height, width):
        return
    x = 0.02 if left + side / 2 > width / 2 else 0.59
    crops = [(0.59, shown)] if image is None else [(0.59, shown), (0.02, image)]
    for y, whole in crops:
        box = (top, left, top + side, left + side)
        inset = ax.inset_axes((x, y, 0.39, 0.39))
        style.show_image(inset, style.cut_out(whole, box, style.scale_of(whole, height, width)))
        inset.spines[:].set(visible=True, color="white", linewidth=0.8)


def outline(
    ax: Axes, square: tuple[int, int, int], colour: str, scale: tuple[float, float] = (1, 1)
) -> None:
    """A thin square in pixels, readable on any picture (of that :func:`scale_of`); whole where it
    lies at the picture's edge, which would cut off half of its lines."""
    top, left, side = square
    box = style.scaled((top, left, top + side, left + side), scale)
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

    `images` ``[V,H,W,3]`` in 0..1 (the inputs, drawn on top) and `projections` (display arrays a
    layer) come from the result's own tensors where `preprocessing`, the network's
    (:func:`zfcuda.models.preprocessing`), tells their colours. Without it no input is drawn and the
    network's channels stand for red, green and blue; zero signal is mid grey.
    Units of a layer that has as many as there are `class_names` are called by these too.
    """
    if preprocessing is not None:
        images = preprocessing.to_display(result.images) if images is None else images
        if projections is None:
            projections = {
                layer: preprocessing.signal_to_display(signal)
                for layer, signal in result.projections.items()
            }
    pictures = None if images is None else style.display_images(images)
    own = result.projections if projections is None else projections
    top, headings = int(pictures is not None), [fit(name, 20) for name in result.columns]
    rows, columns = len(result.layers) + top, len(headings)
    figure = new_figure(0.45 + CELL * max(columns, 2), 0.3 + (CELL + 0.42) * rows, title)
    axes = figure.subplots(rows, columns, squeeze=False)
    if pictures is not None:
        for ax, picture, heading in zip(axes[0], pictures, headings, strict=True):
            style.show_image(ax, picture, heading)
        axes[0][0].set_ylabel("network input")
    for row, layer in enumerate(result.layers, start=top):
        shown = style.display_signal(own[layer])
        for column, ax in enumerate(axes[row]):
            caption = unit_caption(result, layer, column, class_names)
            style.show_image(ax, shown[column], "" if row else headings[column], caption)
            square = support(shown[column])
            if square is None:
                continue
            colour, picture = (
                layer_colour(row - top),
                None if pictures is None else pictures[column],
            )
            magnify(ax, shown[column], picture, square)
            outline(ax, square, colour)
            if picture is not None:
                scale = style.scale_of(picture, *shown[column].shape[:2])
                outline(axes[0][column], square, colour, scale)
        name_row(axes[row][0], layer, 26, row - top)
    return figure


PANEL = 3.4  # inches


def mosaic(cells: list[Array], columns: int, empty: float) -> Array:
    """Pictures [h,w,3] of any sizes, each in the middle of its cell, row by row."""
    height = max(max(cell.shape[0] for cell in cells), 1)
    width = max(max(cell.shape[1] for cell in cells), 1)
    gap = 1 + max(height, width) // 24
    rows = -(-len(cells) // columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3))
    for index, cell in enumerate(cells):
        top = index // columns * (height + gap)
        left = index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = empty
        top += (height - cell.shape[0]) // 2
        left += (width - cell.shape[1]) // 2
        canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
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

    `preprocessing` is the network's (:func:`zfcuda.models.preprocessing`); with it projections and
    images have the colours that they stand for. Without it projections show the network's channels
    as red, green and blue, whatever their order, and the images, which are no pictures as the
    network takes them, are left out unless given as `images` ``[N,H,W,3]`` in 0..1. Of a layer's
    units the first `most` are shown.
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
                scale = style.scale_of(picture, *result.images.shape[-2:])
                seen.append(style.cut_out(picture, result.boxes[unit].tolist(), scale))
            style.show_image(axes[row][1], mosaic(seen, columns, 0.5))
        name_row(axes[row][0], layer, 40, row)
    return figure
