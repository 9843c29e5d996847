"""Maps of labels: which of them have colours, and the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from zfcuda.figures._style.arrays import Array, to_array
from zfcuda.figures._style.colours import MUTED, NO_DATA, PALETTE
from zfcuda.figures._style.text import class_name, fit

_SOURCES = {
    "logits": "softmax",
    "probabilities": "the network's own",
    "logit": "sigmoid",
    "probability": "the network's own",
}


def score_name(outputs: str, name: str) -> str:
    """What a score of the class `name` is called: P(name), or of a regression its value; P of a
    single output without a name."""
    if not name:
        return "value" if outputs == "value" else "P"
    return f"value of {name}" if outputs == "value" else f"P({name})"


def score_source(outputs: str) -> str:
    """Where probabilities come from, if not from a softmax of logits: " (sigmoid)"."""
    usual = outputs in ("logits", "value")
    return "" if usual else f" ({_SOURCES[outputs]})"


def score_axis(outputs: str) -> str:
    """What an axis of probabilities is called, in full; or "value"."""
    return "value" if outputs == "value" else f"probability ({_SOURCES[outputs]})"


def defined_labels(labels: Any, probabilities: Array) -> Array:
    """Labels with -1 where the probabilities are NaN: their argmax means nothing."""
    return np.where(np.isnan(probabilities), -1, to_array(labels))


def pick_labels(labels: Array, first: int | None = None) -> list[int]:
    """The labels that get a colour of their own: `first` if it occurs, then the most frequent."""
    values, counts = np.unique(labels[labels >= 0], return_counts=True)
    order = [int(v) for v in values[np.argsort(-counts, kind="stable")]]
    if first in order:
        order.remove(first)
        order.insert(0, first)
    return order[: len(PALETTE)]


def label_colours(labels: Array, shown: Sequence[int]) -> Array:
    """RGB colours, shape ``labels.shape + (3,)``; labels not in `shown` are grey."""
    colours = np.full((*labels.shape, 3), to_rgb(MUTED))
    colours[labels < 0] = to_rgb(NO_DATA)
    for label, colour in zip(shown, PALETTE, strict=False):
        colours[labels == label] = to_rgb(colour)
    return colours


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def label_legend(
    labels: Array, shown: Sequence[int], names: Sequence[str] | None, width: int
) -> list[Patch]:
    """Legend entries "share name" for the labels `shown`, and one for all the others together."""
    total = max(labels.size, 1)
    shares: Mapping[int, float] = {label: float((labels == label).mean()) for label in shown}
    handles = [
        Patch(color=colour, label=fit(f"{_percent(share)} {class_name(names, label)}", width))
        for (label, share), colour in zip(shares.items(), PALETTE, strict=False)
    ]
    rest = np.unique(labels[~np.isin(labels, [*shown, -1])])
    if rest.size:
        share = np.isin(labels, rest).sum() / total
        handles.append(Patch(color=MUTED, label=f"{_percent(share)} others ({rest.size})"))
    if (labels < 0).any():
        share = (labels < 0).mean()
        handles.append(Patch(color=NO_DATA, label=f"{_percent(share)} not a number"))
    return handles
