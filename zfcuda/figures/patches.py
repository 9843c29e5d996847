"""Many units of a layer at a glance: their projections, and what they looked at (Zeiler & Fergus
2014, figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures._style import (
    Array,
    cut_out,
    display_images,
    draws,
    fit_name,
    new_figure,
    number,
    scale_of,
    show_image,
    styled,
)
from zfcuda.figures.projection import LAYER_COLOURS
from zfcuda.results.projections import Patches

if TYPE_CHECKING:
    from torch import Tensor


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
@styled
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
    pictures = None if images is None else display_images(images)
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
        strongest = number(float(result.activations[units].max()))
        caption = f"{count} units, strongest activation {strongest}"
        show_image(axes[row][0], mosaic(signals, columns, 0.5), caption=caption)
        if pictures is not None:
            seen = []
            for unit in some:
                picture = pictures[int(result.image[unit])]
                scale = scale_of(picture, *result.images.shape[-2:])
                seen.append(cut_out(picture, result.boxes[unit].tolist(), scale))
            show_image(axes[row][1], mosaic(seen, columns, 0.5))
        axes[row][0].set_ylabel(
            fit_name(layer, 40),
            color=LAYER_COLOURS[row % len(LAYER_COLOURS)],
            fontweight="bold",
        )
    return figure
