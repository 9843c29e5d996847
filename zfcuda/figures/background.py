"""What the background contributes (the talk's figures 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from ._style import Array, class_name, display_images, display_signal, fit, number, styled, to_array
from .projection import draw_grid

if TYPE_CHECKING:
    from zfcuda.results import BackgroundResult


def _softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


@styled
def background_effect(
    result: BackgroundResult,
    images: Array | None = None,
    projections: Mapping[str, Array] | None = None,
    class_names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """The variants of one image with their predictions, and below each its projections.

    "moved" is the relative L2 change of a projection against the original's. `images` and
    `projections` are display arrays ``[V,H,W,3]``; without them the result's own are stretched.
    """
    probabilities = _softmax(to_array(result.logits).astype(float))
    headings = []
    for p in probabilities:
        if np.isnan(p).any():
            headings.append("not a number")
            continue
        label = int(p.argmax())
        lines = [f"{fit(class_name(class_names, label), 18, 1)} {p[label]:.2f}"]
        if label != result.target:
            name = fit(class_name(class_names, result.target), 18, 1)
            lines.append(f"({name} {p[result.target]:.2f})")
        headings.append("\n".join(lines))
    own = result.projections if projections is None else projections
    captions = {layer: _captions(result, layer) for layer in own}
    return draw_grid(
        result.variants,
        {layer: display_signal(shown) for layer, shown in own.items()},
        captions,
        display_images(result.images if images is None else images),
        headings,
        title,
    )


def _captions(result: BackgroundResult, layer: str) -> list[str]:
    captions = []
    changes = to_array(result.projection_change[layer])
    for variant, name in enumerate(result.variants):
        lines = []
        if layer in getattr(result, "units", {}):
            channel = int(to_array(result.units[layer])[variant][0])
            activation = number(to_array(result.activations[layer])[variant])
            lines.append(f"channel {channel}, activation {activation}")
        if name == "original":
            lines.append("the reference")
        else:
            change = changes[variant]
            lines.append("no reference to move from" if np.isnan(change) else f"moved {change:.0%}")
        captions.append("\n".join(lines))
    return captions
