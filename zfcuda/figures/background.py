"""What the background contributes (the talk's figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zfcuda.data.preprocessing import Preprocessing
from zfcuda.figures import style
from zfcuda.figures.projection import (
    is_of_vectors,
    layer_colour,
    magnify,
    name_row,
    outline,
    support,
)
from zfcuda.figures.style import MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.background import BackgroundResult

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
    are display arrays ``[V,H,W,3]``; `preprocessing`, the network's
    (:func:`zfcuda.models.preprocessing`), makes them of the result's own. Either gives true
    colours; without, the network's three channels stand for red, green and blue, images stretched
    to 0..1 (of other than three channels, grey).
    """
    shown = style.input_pictures(result.images, preprocessing, images)
    own = result.projections if projections is None else projections
    scale = (
        preprocessing.signal_to_display
        if preprocessing and projections is None
        else style.display_signal
    )
    signals = {layer: scale(signal) for layer, signal in own.items()}
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
            square = support(signal[column])
            if square is not None:
                magnify(ax, signal[column], shown[column], square)
                outline(ax, square, colour)
                scale = style.scale_of(shown[column], *signal[column].shape[:2])
                outline(axes[0][column], square, colour, scale)
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
