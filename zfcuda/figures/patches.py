"""Many units of a layer at a glance: their projections, and what they looked at (Zeiler & Fergus
2014, figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ._style import (
    Array,
    display_images,
    display_signal,
    fit_name,
    new_figure,
    number,
    show_image,
    styled,
    to_array,
)
from .projection import LAYER_COLOURS

if TYPE_CHECKING:
    from zfcuda.results import Patches

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


@styled
def projection_patches(
    result: Patches,
    images: Array | None = None,
    most: int = 64,
    title: str | None = None,
) -> Figure:
    """Units by layer: their projections, each stretched on its own with zero at mid grey, and
    beside them the same patches of their images.

    `images` ``[N,H,W,3]`` in 0..1 default to the result's own, stretched. Of a layer's units the
    first `most` are shown.
    """
    shown = display_images(result.images if images is None else images)
    figure = new_figure(0.4 + 2 * PANEL, 0.3 + (PANEL + 0.35) * len(result.layers), title)
    axes = figure.subplots(len(result.layers), 2, squeeze=False)
    for row, layer in enumerate(result.layers):
        units = result.of(layer).tolist()
        some = units[:most]
        columns = int(np.ceil(np.sqrt(len(some))))
        signals, seen = [], []
        for unit in some:
            y0, x0, y1, x1 = result.boxes[unit].tolist()
            seen.append(shown[int(result.image[unit]), y0:y1, x0:x1])
            signals.append(display_signal(to_array(result.patch(unit))[None])[0])
        count = str(len(units)) if len(some) == len(units) else f"{len(some)} of {len(units)}"
        strongest = number(float(result.activations[units].max()))
        caption = f"{count} units, strongest activation {strongest}"
        left, right = axes[row]
        show_image(left, mosaic(signals, columns, 0.5), "" if row else "projections", caption)
        show_image(right, mosaic(seen, columns, 0.5), "" if row else "image patches")
        axes[row][0].set_ylabel(
            fit_name(layer, 40),
            color=LAYER_COLOURS[row % len(LAYER_COLOURS)],
            fontweight="bold",
        )
    return figure
