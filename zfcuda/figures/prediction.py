"""The prediction panel: the image, the top-k distribution and its entropy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from zfcuda.figures import style
from zfcuda.figures.style import MUTED, PALETTE, Array, draws, fit, new_figure, to_array
from zfcuda.results.predictions import Predictions


@draws(Predictions)
def prediction(
    result: Predictions,
    images: Array | None = None,
    class_names: Sequence[str] | None = None,
    image: int = 0,
    k: int = 5,
    title: str | None = None,
) -> Figure:
    """One image's `k` most probable classes as bars, with the entropy of the whole distribution.

    `images` are the network's inputs as display arrays ``[N,H,W,3]`` in 0..1; without them only
    the bars are drawn. `class_names[i]` names class `i` (default: the result's own).
    """
    class_names = result.class_names if class_names is None else class_names
    k = min(k, result.logits.shape[-1])
    probabilities, labels = (to_array(t)[image] for t in result.top(k))
    entropy = float(to_array(result.entropy)[image])
    total = float(to_array(result.probabilities)[image].sum())
    rest = max(0.0, total - float(probabilities.sum()))

    figure = new_figure(6.4, 2.6, title)
    widths = [1.0, 1.5] if images is not None else [1.0]
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    if images is not None:
        style.show_image(axes[0], style.display_images(images)[image], caption="network input")

    bars = axes[-1]
    rows = np.arange(k)
    room = 0.015 * (1 if result.outputs != "value" else float(np.abs(probabilities).max()))
    colours = [PALETTE[0]] + ["#9ecae1"] * (k - 1)
    bars.barh(rows, np.nan_to_num(probabilities), color=colours, height=0.62)
    for row, probability in zip(rows, probabilities, strict=True):
        bars.text(max(np.nan_to_num(probability), 0) + room, row, f"{probability:.3f}", va="center")
    count = result.logits.shape[-1]
    names = [style.class_name(class_names, int(label), count) for label in labels]
    bars.set_yticks(rows, [fit(name or "the output", 24) for name in names])
    bars.tick_params(axis="y", length=0)
    bars.set_ylim(k - 0.5, -0.5)
    bars.set_xlabel(style.score_axis(result.outputs))
    if result.outputs == "value":
        bars.margins(x=0.2)
        bars.axvline(0, color=MUTED, linewidth=0.6)
        return figure
    bars.set_xlim(0, 1.16)  # room for the number at the end of a full bar
    bars.spines.bottom.set_bounds(0, 1)
    bars.set_xticks(np.linspace(0, 1, 5))
    text = f"entropy {entropy:.2f} nats"
    if count > 1:  # one probability is that of a yes, beside which there is a no
        text += f"\n(as uncertain as {np.exp(entropy):.1f} equally likely classes)"
    bars.set_title(text, loc="left", fontsize=8)
    if (k < result.logits.shape[-1] and abs(total - 1) < 0.01) or result.outputs == "logits":
        bars.text(
            1.0,
            0.04,
            f"all other classes: {rest:.3f}",
            transform=bars.transAxes,
            ha="right",
            va="bottom",
            color=MUTED,
        )
    return figure
