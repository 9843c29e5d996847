"""What all figures share: typography, palettes, panels. Object-oriented matplotlib only.

Nothing here touches pyplot or leaves a trace in ``matplotlib.rcParams``: a figure function is
wrapped in `styled`, which applies the style for as long as the figure is being built.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation, Transform

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable

Array = npt.NDArray[Any]
P = ParamSpec("P")

DPI = 150
INK = "#222222"
MUTED = "#6b6b6b"
NO_DATA = "#d9d9d9"
# Okabe and Ito's set without black, reordered so that neighbours differ in lightness as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
LINE_STYLES = ("-", "--", "-.", ":")

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: the same figure everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.titlepad": 5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "text.color": INK,
    "text.parse_math": False,  # class and layer names are data: "$5" is not mathematics
    "figure.titlesize": 10.5,
    "figure.titleweight": "bold",
}


def styled(build: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style, and lay the figure out before returning it.

    The dry draw inside the style makes matplotlib create its lazy parts (tick labels) now; drawn
    later they would take whatever style the caller has.
    """

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_RC):
            figure = build(*args, **kwargs)
            figure.draw_without_rendering()
            return figure

    return wrapper


def new_figure(width: float, height: float, title: str | None = None, dpi: int = DPI) -> Figure:
    """An empty constrained-layout figure of the given size in inches, on an Agg canvas."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    if title:
        figure.suptitle(fit(title, int(width * 10.5), 2), x=0.01, ha="left")
    return figure


# ---------------------------------------------------------------------------------- text


def fit(text: str, width: int, lines: int = 2) -> str:
    """Wrap `text` to at most `lines` lines of `width` characters; then an ellipsis."""
    return "\n".join(
        textwrap.wrap(str(text), width=max(width, 4), max_lines=lines, placeholder=" …")
        or [str(text)[:width]]
    )


def fit_name(name: str, width: int) -> str:
    """A dotted layer name cut from the left: its end is what tells layers apart."""
    return name if len(name) <= width else "…" + name[1 - width :]


def class_name(names: Sequence[str] | None, label: int) -> str:
    """The name of a class, or "class 7" where no name is known."""
    if names is None or not 0 <= label < len(names):
        return f"class {label}"
    return str(names[label])


def number(value: float) -> str:
    """Three significant digits, short, without e-notation in the usual range."""
    value = float(value)
    if not np.isfinite(value):
        return str(value)
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2g}"


# -------------------------------------------------------------------------------- arrays


def to_array(x: Any) -> Array:
    """A tensor or array-like as a NumPy array (16-bit floats widened, so that NumPy knows them)."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        if x.is_floating_point():
            x = x.double()
        return x.numpy()
    return np.asarray(x)


def _channels_last(x: Any) -> Array:
    array = to_array(x)
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4:
        raise ValueError(f"display images: expected [N,H,W,3] or [N,C,H,W], got {array.shape}")
    if array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 1, -1)
    if array.shape[-1] not in (1, 3):
        array = array.mean(axis=-1, keepdims=True)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array


def display_images(x: Any) -> Array:
    """``[N,H,W,3]`` in 0..1: others than those in that range are stretched, image by image."""
    images = _channels_last(x).astype(float)
    if np.nanmin(images, initial=0.0) < 0 or np.nanmax(images, initial=1.0) > 1:
        low = np.nanmin(images, axis=(1, 2, 3), keepdims=True)
        high = np.nanmax(images, axis=(1, 2, 3), keepdims=True)
        images = (images - low) / np.where(high > low, high - low, 1.0)
    return np.nan_to_num(images, nan=0.5)


def colourless(x: Any) -> Array:
    """Network inputs ``[N,C,H,W]`` as grey pictures: nobody said which channel is red."""
    return display_images(to_array(x).mean(axis=1, keepdims=True))


def display_signal(x: Any) -> Array:
    """``[N,H,W,3]`` in 0..1 of a signed signal, zero at mid grey.

    Non-negative arrays ``[N,H,W,3]`` in 0..1 are taken as already scaled for display.
    """
    array = to_array(x)
    if array.ndim == 4 and array.shape[-1] == 3 and array.min() >= 0 and array.max() <= 1:
        return array
    signal = np.nan_to_num(_channels_last(array).astype(float))
    return np.stack([0.5 + 0.5 * np.clip(one / _full_scale(one), -1, 1) for one in signal])


def _full_scale(signal: Array) -> float:
    """The 99.5th percentile of the non-zero values: an early layer's projection is mostly zeros."""
    magnitude = np.abs(signal[signal != 0])
    return float(np.percentile(magnitude, 99.5)) if magnitude.size else 1.0


# -------------------------------------------------------------------------------- panels


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
