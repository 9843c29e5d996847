"""Invariance curves (paper, section 4.1 and figure 5; the talk's figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from zfcuda.figures import style
from zfcuda.figures.style import INK, MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.invariance import InvarianceResult

_AXES = {
    "rotation": "rotation, counter-clockwise (degrees)",
    "scaling": "scale factor",
    "translation": "translation (px)",
}
# Where a legend stands: right of its panel.
_BESIDE: dict[str, Any] = {
    "loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "borderaxespad": 0, "alignment": "left"
}  # fmt: skip


@draws(InvarianceResult)
def invariance_curve(
    result: InvarianceResult,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    image: int = 0,
    title: str | None = None,
    image_values: Sequence[float] | None = None,
) -> Figure:
    """P(true class), the predicted label and the layers' feature distances along a transformation.

    `images` ``[T,H,W,3]`` in 0..1 are example transformed images, drawn along the top at the
    values `image_values` (by default evenly over the result's values). Distances are Euclidean,
    each layer's divided by its own maximum, which the legend states.
    """
    x, x_label = _abscissa(result)
    order = np.argsort(x, kind="stable")
    x = x[order]
    probability = to_array(result.target_probability)[image][order].astype(float)
    labels = style.defined_labels(to_array(result.labels)[image][order], probability)
    distances = {name: to_array(d)[image][order] for name, d in result.distances.items()}
    target = int(result.target[image])

    several = result.logits.shape[-1] > 1
    heights = [0.62] * (images is not None) + [2.0] + [0.22] * several + [1.5] * bool(distances)
    figure = new_figure(8.2, 0.9 + 1.12 * sum(heights), title)
    axes = list(figure.subplots(len(heights), 1, height_ratios=heights, sharex=True))
    edges = _edges(x)
    if images is not None:
        thumbnails = style.display_images(images)
        if image_values is None:
            image_values = np.linspace(x[0], x[-1], len(thumbnails)).tolist()
        _draw_thumbnails(
            axes.pop(0), thumbnails, image_values, edges, "°" if result.kind == "rotation" else ""
        )

    curve, *rest = axes
    curve.plot(x, probability, color=PALETTE[0], marker=".", markersize=4)
    if result.outputs != "value":
        curve.set_ylim(-0.03, 1.03)
    name = style.score_name(
        result.outputs, fit(style.class_name(class_names, target, result.logits.shape[-1]), 22, 1)
    )
    curve.set_ylabel(name + style.score_source(result.outputs, "\n"))
    style.y_grid(curve)

    if several:
        known = style.pick_labels(labels, first=target)
        strip = rest.pop(0)
        strip.pcolormesh(edges, [0, 1], style.label_colours(labels, known)[None], rasterized=True)
        strip.set_yticks([])
        strip.set_ylabel("label", rotation=0, ha="right", va="center")
        curve.legend(
            handles=style.label_legend(labels, known, class_names, 28),
            title="largest value" if result.outputs == "value" else "predicted label",
            handlelength=1,
            handleheight=1,
            **_BESIDE,
        )
    for ax in rest:
        _draw_distances(ax, x, distances)
    axes[-1].set_xlabel(x_label)
    axes[-1].set_xlim(edges[0], edges[-1])
    if result.kind == "rotation":
        axes[-1].xaxis.set_major_locator(MultipleLocator(45))
    return figure


def _abscissa(result: InvarianceResult) -> tuple[Array, str]:
    """The values as one axis: for a translation the coordinate that varies, else the index."""
    values = to_array(result.values).astype(float)
    label = _AXES.get(result.kind, str(result.kind))
    if values.ndim == 1:
        return values, label
    varying = [axis for axis in range(2) if np.ptp(values[:, axis]) > 0]
    if len(varying) > 1:
        return np.arange(len(values), dtype=float), "translation number"
    axis = varying[0] if varying else 0
    return values[:, axis], ("vertical " if axis == 0 else "horizontal ") + label


def _edges(x: Array) -> Array:
    if x.size == 1:
        return np.array([x[0] - 0.5, x[0] + 0.5])
    return np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])


def _draw_thumbnails(
    ax: Axes, thumbnails: Array, values: Sequence[float], edges: Array, unit: str
) -> None:
    """Each thumbnail above its value, or side by side where they would overlap, and captioned."""
    ax.set_yticks([])
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[:].set_visible(False)
    ax.set_xlim(edges[0], edges[-1])
    width = (edges[-1] - edges[0]) / (len(thumbnails) + 1)
    places = np.asarray(values, dtype=float)
    if places.size > 1 and np.diff(places).min() < 0.99 * width:
        places = np.linspace(edges[0] + width / 2, edges[-1] - width / 2, len(places))
    for thumbnail, value, place in zip(thumbnails, values, places, strict=True):
        cell = ax.inset_axes(
            (place - width / 2, 0.0, width, 1.0), transform=ax.get_xaxis_transform()
        )
        style.show_image(cell, thumbnail, caption=style.number(value) + unit)


def _draw_distances(ax: Axes, x: Array, distances: dict[str, Array]) -> None:
    for index, (layer, distance) in enumerate(distances.items()):
        finite = distance[np.isfinite(distance)]
        largest = float(finite.max()) if finite.size else float("nan")
        ax.plot(
            x,
            distance / (largest if largest > 0 else 1.0),
            color=(INK, *PALETTE[1:])[index % len(PALETTE)],
            linestyle=style.LINE_STYLES[index % len(style.LINE_STYLES)],
            label=f"{style.fit_name(layer, 20)} (max {style.number(largest)})",
        )
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("feature distance\n(share of maximum)")
    ax.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    ax.legend(title="layer", labelcolor=INK, edgecolor=MUTED, **_BESIDE)
