"""What panels are made of: pictures, and colour bars below them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, Transform

from zfcuda.figures._style.arrays import Array
from zfcuda.figures._style.colours import INK
from zfcuda.figures._style.text import number

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable


def show_image(ax: Axes, image: Array, title: str = "", caption: str = "") -> None:
    """An RGB image in 0..1 without ticks, a title above and a caption below."""
    ax.imshow(np.clip(image, 0, 1), interpolation="antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    if title:
        ax.set_title(title)
    if caption:
        ax.set_xlabel(caption, labelpad=4, fontsize=7.5)


def below(ax: Axes) -> Transform:
    """Axes coordinates, moved down past the labels of the x axis by a fixed length.

    A length, since a share of the axes' height would run into the labels where the axes are small.
    """
    return ax.transAxes + ScaledTranslation(0, -0.62, ax.figure.dpi_scale_trans)


def colour_bar(ax: Axes, mappable: ScalarMappable, label: str, mark: float) -> None:
    """A horizontal colour bar hung under `ax`, so that all panels of a row keep one size.

    A triangle stands at `mark`, the value without any perturbation.
    """
    cax = ax.inset_axes((0.0, 0.0, 1.0, 0.05), transform=below(ax))
    bar = ax.figure.colorbar(
        mappable, cax=cax, orientation="horizontal", format=lambda value, _: number(value)
    )
    bar.set_label(label)
    if np.isfinite(mark):
        bar.ax.plot([mark], [1.6], marker="v", color=INK, markersize=3.5, clip_on=False)
    bar.outline.set_linewidth(0.4)
    bar.ax.locator_params(nbins=4)
