"""Projections into the image: one row per layer, one column per input (or per unit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import (
    Array,
    display_images,
    display_signal,
    fit,
    fit_name,
    new_figure,
    number,
    show_image,
    styled,
    to_array,
)

if TYPE_CHECKING:
    from zfcuda.results import Projections

CELL = 1.85  # inches


def unit_caption(result: Any, layer: str, column: int) -> str:
    """ "channel 12 at (3, 4), activation 5.1" of one projected unit."""
    channel, row, col = (int(v) for v in to_array(result.units[layer])[column])
    activation = number(to_array(result.activations[layer])[column])
    return f"channel {channel} at ({row}, {col})\nactivation {activation}"


def magnify(ax: Axes, shown: Array) -> None:
    """Show a projection much smaller than the image once more, enlarged, in the freest corner.

    Early layers see a few pixels: true to scale, their projection is a speck.
    """
    height, width = shown.shape[:2]
    rows, cols = np.nonzero(np.abs(shown - 0.5).max(axis=-1) > 0.02)
    if not rows.size:
        return
    side = max(np.ptp(rows), np.ptp(cols)) + 3
    if side > 0.35 * min(height, width):
        return
    top = int(np.clip((rows.min() + rows.max() - side) // 2, 0, height - side))
    left = int(np.clip((cols.min() + cols.max() - side) // 2, 0, width - side))
    x = 0.02 if left + side / 2 > width / 2 else 0.5
    y = 0.02 if top + side / 2 < height / 2 else 0.5
    inset = ax.inset_axes((x, y, 0.48, 0.48))
    show_image(inset, shown[top : top + side, left : left + side])
    for spine in inset.spines.values():
        spine.set(visible=True, color="white", linewidth=1.0)
    ax.indicate_inset(
        (left - 0.5, top - 0.5, side, side), inset, edgecolor="white", linewidth=0.7, alpha=0.9
    )


def draw_grid(
    columns: Sequence[str],
    projections: Mapping[str, Array],
    captions: Mapping[str, Sequence[str]],
    images: Array | None = None,
    image_captions: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The grid both projection figures share: inputs on top, then a row of projections a layer."""
    top = images is not None
    rows = len(projections) + top
    figure = new_figure(0.45 + CELL * max(len(columns), 2), 0.3 + (CELL + 0.42) * rows, title)
    axes = figure.subplots(rows, len(columns), squeeze=False)
    if images is not None:
        for column, (ax, shown) in enumerate(zip(axes[0], images, strict=True)):
            caption = image_captions[column] if image_captions else ""
            show_image(ax, shown, fit(columns[column], 20), caption)
        axes[0][0].set_ylabel("network input")
    for row, (layer, shown) in enumerate(projections.items(), start=int(top)):
        for column, ax in enumerate(axes[row]):
            heading = "" if top or row else fit(columns[column], 20)
            show_image(ax, shown[column], heading, captions[layer][column])
            magnify(ax, shown[column])
        axes[row][0].set_ylabel(fit_name(layer, 26))
    return figure


@styled
def projection_grid(
    result: Projections,
    images: Array | None = None,
    projections: Mapping[str, Array] | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Deconvnet projections: rows are layers, columns inputs, each with its unit and activation.

    `images` ``[V,H,W,3]`` in 0..1 (the inputs, drawn on top) and `projections` (display arrays a
    layer) default to the result's own tensors, stretched; zero signal is mid grey.
    `class_names` is accepted for symmetry with the other figures and not used.
    """
    own = result.projections if projections is None else projections
    shown = {layer: display_signal(own[layer]) for layer in result.layers}
    captions = {
        layer: [unit_caption(result, layer, column) for column in range(len(result.columns))]
        for layer in result.layers
    }
    inputs = result.images if images is None else images
    return draw_grid(
        result.columns,
        shown,
        captions,
        None if inputs is None else display_images(inputs),
        title=title,
    )
