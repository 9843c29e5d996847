"""What all figures share: typography, palettes, panels. Object-oriented matplotlib only.

Only what shows figures touches pyplot, and nothing leaves a trace in ``matplotlib.rcParams``: a
figure function is registered by `draws`, which applies the style for as long as the figure is
built.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib._pylab_helpers import Gcf
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

from zfcuda.results.base import called
from zfcuda.storage.files import class_name, printable

if TYPE_CHECKING:
    from zfcuda.data.preprocessing import Preprocessing


# Backends that draw into files: nothing is ever shown.
_FILES = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}
_MOST = 19  # pyplot warns from twenty on; a long script must not fill the memory


def show_with_pyplot(figure: Figure) -> Figure:
    """Hand a figure to pyplot, if pyplot could show it, and return it.

    A notebook then shows it at the cell's end, and ``pyplot.show()`` in a window. pyplot holds the
    last few only. Where nothing can be shown (no display, a backend for files) it is not imported.
    """
    if not _can_show():
        return figure
    try:
        from matplotlib import pyplot

        # pyplot asks for a figure of this class, and gets the one that there is.
        pyplot.figure(FigureClass=lambda *_args, **_settings: figure)
    except ImportError:  # a backend that is not installed: the figure can still be saved
        return figure
    held = [manager.canvas.figure for manager in Gcf.get_all_fig_managers()]
    for one in [one for one in held if isinstance(one, NotebookFigure)][:-_MOST]:
        pyplot.close(one)
    return figure


def _can_show() -> bool:
    """Whether the backend, or the one that would be chosen, shows figures; chooses none."""
    backend = dict.__getitem__(mpl.rcParams, "backend")  # [] would choose one, and import pyplot
    if isinstance(backend, str):
        return backend.lower() not in _FILES
    displayed = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform != "linux" or bool(displayed)


class NotebookFigure(Figure):
    """A figure that a notebook shows once: as a cell's value, or at the cell's end."""

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        backend = dict.__getitem__(mpl.rcParams, "backend")
        if self.canvas.manager is not None and "inline" not in str(backend):
            print(self)  # has a window, or a widget
            return
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        display(Image(picture.getvalue()))
        if self.canvas.manager is not None:
            from matplotlib import pyplot

            pyplot.close(self)


INK = "#222222"
MUTED = "#6b6b6b"
NO_DATA = "#d9d9d9"
# Okabe and Ito's set without black, reordered so that neighbours differ in lightness as well.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
LINE_STYLES = ("-", "--", "-.", ":")


Array = npt.NDArray[Any]


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
    """``[N,H,W,3]`` in 0..1: uint8 as shares of 255; others than those in that range are stretched,
    image by image."""
    images = _channels_last(x)
    if images.dtype == np.uint8:
        return images / 255
    images = images.astype(float)
    if np.nanmin(images, initial=0.0) < 0 or np.nanmax(images, initial=1.0) > 1:
        low = np.nanmin(images, axis=(1, 2, 3), keepdims=True)
        high = np.nanmax(images, axis=(1, 2, 3), keepdims=True)
        images = (images - low) / np.where(high > low, high - low, 1.0)
    return np.nan_to_num(images, nan=0.5)


def box_on(picture: Array, box: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """A box (y0, x0, y1, x1) of an input of that size, in the pixels of a picture ``[h,w,3]``.

    Raises:
        ValueError: the picture has other proportions: what it shows where is unknown.
    """
    down, across = picture.shape[0] / height, picture.shape[1] / width
    if abs(down - across) > 1 / min(height, width):  # a pixel, for rounding
        raise ValueError(
            f"images of {picture.shape[0]}×{picture.shape[1]} pixels: expected the network's "
            f"inputs, {height}×{width}, or the same larger or smaller (Preprocessing.to_display "
            "makes pictures of inputs)"
        )
    y0, x0, y1, x1 = (float(edge) for edge in box)
    return y0 * down, x0 * across, y1 * down, x1 * across


def cut_out(picture: Array, box: Any, height: int, width: int) -> Array:
    """What of a picture lies in a box of an input of that size, whole pixels."""
    y0, x0, y1, x1 = box_on(picture, box, height, width)
    low, left = int(y0 + 1e-6), int(x0 + 1e-6)
    return picture[low : int(np.ceil(y1 - 1e-6)), left : int(np.ceil(x1 - 1e-6))]


def input_pictures(inputs: Any, preprocessing: Preprocessing | None, images: Any = None) -> Array:
    """Network inputs ``[N,C,H,W]`` as pictures: the display arrays `images`, or as the network's
    preprocessing shows them. Without either three channels are red, green and blue, others grey;
    each is stretched to 0..1 over all its channels."""
    if images is None and preprocessing:
        return preprocessing.to_display(inputs)
    if images is None:
        inputs = to_array(inputs)
        inputs = inputs if inputs.shape[1] == 3 else inputs.mean(axis=1, keepdims=True)
        images = np.moveaxis(inputs, 1, -1)
    return display_images(images)


def signal_pictures(
    own: Mapping[str, Any], preprocessing: Preprocessing | None, given: Any = None
) -> dict[str, Array]:
    """By layer, signals as pictures: the display arrays `given`, or a result's own as the network's
    preprocessing shows them, or stretched."""
    own, preprocessing = (own, preprocessing) if given is None else (given, None)
    show = preprocessing.signal_to_display if preprocessing else display_signal
    return {layer: show(signals) for layer, signals in own.items()}


def display_signal(x: Any) -> Array:
    """``[N,H,W,3]`` in 0..1 of a signed signal, zero at mid grey.

    Arrays ``[N,H,W,3]`` in 0..1, and of uint8, are taken as already scaled for display.
    """
    array = to_array(x)
    if array.dtype == np.uint8 and array.shape[-1] == 3:
        return array / 255
    if array.ndim == 4 and array.shape[-1] == 3 and array.min() >= 0 and array.max() <= 1:
        return array
    signal = np.nan_to_num(_channels_last(array).astype(float))
    # Of the non-zero values: an early layer's projection is mostly zeros.
    full = [np.percentile(np.abs(one[one != 0]), 99.5) if one.any() else 1.0 for one in signal]
    shares = [np.clip(one / scale, -1, 1) for one, scale in zip(signal, full, strict=True)]
    return 0.5 + 0.5 * np.stack(shares)


def fit(text: str, width: int, lines: int = 2) -> str:
    """Wrap `text` to at most `lines` lines of `width` characters; then an ellipsis."""
    text, width = printable(text), max(width, 4)
    wrapped = textwrap.wrap(text, width=width, max_lines=lines, placeholder=" …")
    if wrapped and wrapped[-1] == "…":  # a word longer than the line, as file names are
        rest = text.split(maxsplit=sum(len(line.split()) for line in wrapped[:-1]))[-1]
        wrapped[-1] = rest[: width - 1] + "…"
    return "\n".join(wrapped or [text[:width]])


def fit_name(name: str, width: int) -> str:
    """A dotted layer name cut from the left: its end is what tells layers apart."""
    name = printable(name)
    return name if len(name) <= width else "…" + name[1 - width :]


def fit_ends(name: str, width: int) -> str:
    """A file's name cut in the middle: series differ at their ends."""
    name = printable(name)
    return name if len(name) <= width else f"{name[: width // 3]}…{name[1 + width // 3 - width :]}"


def fold_name(name: str, width: int, lines: int = 2) -> str:
    """A dotted layer name in at most `lines` lines of `width` characters, broken where its pieces
    end; what does not fit is cut from the left."""
    folded = [""]
    for piece in re.findall(r"[^._]*[._]?", printable(name)):
        if folded[-1] and len(folded[-1]) + len(piece) > width:
            folded.append("")
        folded[-1] += piece
    shown = folded[-lines:]
    if len(folded) > lines:
        shown[0] = f"…{shown[0]}"
    return "\n".join(fit_name(line, width) for line in shown)


def number(value: float) -> str:
    """Three significant digits, short, without e-notation in the usual range."""
    value = float(value)
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e3 or value == 0 else f"{value:.2g}"


def show_image(ax: Axes, image: Array, title: str = "", caption: str = "") -> None:
    """An RGB image in 0..1 without ticks, a title above and a caption below."""
    ax.imshow(np.clip(image, 0, 1), interpolation="antialiased")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title)
    if caption:
        ax.set_xlabel(caption, labelpad=4, fontsize=7.5)


def add_box(ax: Axes, box: Sequence[float], **style: Any) -> None:
    """A box (y0, x0, y1, x1) in pixels of the image in `ax`, half open."""
    y0, x0, y1, x1 = box
    ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, **style))


def panel_title(ax: Axes, text: str) -> None:
    """Bold, at the panel's left: "a  what it shows"."""
    ax.set_title(text, loc="left", fontsize=8.5, fontweight="bold")


def offset_text(
    ax: Axes, text: str, place: Any, coords: Any, points: tuple[float, float], **props: Any
) -> None:
    """Text so many points right of and above a place in those coordinates."""
    ax.annotate(text, place, points, coords, "offset points", **props)


def beside_row(
    ax: Axes, inches: float, row: float, text: str, lift: float = 0, **props: Any
) -> None:
    """Text so many inches from the panel's left edge, beside a row of its data."""
    props = {"va": "center", "fontsize": 7.5, "color": INK} | props
    offset_text(ax, text, (0, row), ("axes fraction", "data"), (72 * inches, lift), **props)


def y_grid(ax: Axes, linewidth: float = 0.6) -> None:
    """Pale lines behind what is drawn."""
    ax.grid(axis="y", color="#e6e6e6", linewidth=linewidth)
    ax.set_axisbelow(True)


P = ParamSpec("P")

DPI = 150
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


def _lay_out(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    engine.execute(figure)
    # What hangs below panels of fixed shape has moved with them, out of the room left for it.
    if any(child.bbox.y0 < ax.bbox.y0 - 1 for ax in figure.axes for child in ax.child_axes):
        engine.execute(figure)
    figure.set_layout_engine("none")


def new_figure(width: float, height: float, title: str | None = None, dpi: int = DPI) -> Figure:
    """An empty constrained-layout figure of the given size in inches, on an Agg canvas."""
    size = (width, height)
    figure = NotebookFigure(figsize=size, dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.02, hspace=0.02)
    if title:
        figure.suptitle(fit(title, int(width * 10.5), 2), x=0.01, ha="left")
    return figure


@functools.singledispatch
def draw(result: object, **kwargs: Any) -> Figure:
    """The figure of a result, by the function that is registered for its class.

    Raises:
        TypeError: there is none.
    """
    raise TypeError(f"there is no figure of a {type(result).__name__}")


def draws(kind: type) -> Callable[[Callable[P, Figure]], Callable[P, Figure]]:
    """Have a figure function draw in the house style, lay the figure out before returning it, and
    be the ``plot`` of a class of results.

    Names may hold what no font has, as file names do; it is shown as a question mark. Laying out
    takes most of a figure's time: it is done here, not again at every draw.

    Raises:
        ValueError: the class has one already.
    """

    def register(build: Callable[P, Figure]) -> Callable[P, Figure]:
        if kind in draw.registry:
            raise ValueError(f"{kind.__name__} is drawn by {draw.registry[kind].__name__} already")

        @functools.wraps(build)
        def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
            with mpl.rc_context(_RC):
                figure = build(*args, **kwargs)
                for text in figure.findobj(Text):
                    text.set_text(printable(text.get_text()))
                for axis in figure.findobj(Axis):  # made lazily: later, in the caller's style
                    axis.get_ticklabels()
            _lay_out(figure)
            return figure

        return draw.register(kind, styled)

    return register


_SOURCES = {
    "logits": "softmax",
    "probabilities": "the network's own",
    "logit": "sigmoid",
    "probability": "the network's own",
}


def score_name(outputs: str, name: str) -> str:
    """What a score of the class `name` is called: P(name), or of a regression its value; P of a
    single output without a name."""
    return called(outputs, name).removeprefix("the ")


def score_source(outputs: str, before: str = " ") -> str:
    """Where probabilities come from, if not from a softmax of logits: " (sigmoid)"."""
    usual = outputs in ("logits", "value")
    return "" if usual else f"{before}({_SOURCES[outputs]})"


def score_heading(outputs: str, probability: str = "P(class)") -> str:
    """What heads a panel of probabilities, and below it where they come from; or "value"."""
    return "value" if outputs == "value" else probability + score_source(outputs, "\n")


def score_axis(outputs: str) -> str:
    """What an axis of probabilities is called, in full; or "value"."""
    return "value" if outputs == "value" else f"probability ({_SOURCES[outputs]})"


def coloured_labels(
    labels: Any, probabilities: Array, target: int, names: Sequence[str] | None, width: int
) -> tuple[Array, list[Patch]]:
    """RGB colours of predicted labels, shape ``labels.shape + (3,)``, and legend entries "share
    name" of so many letters.

    `target` and the most frequent labels have colours of their own, all others are dark grey. Where
    the probabilities are NaN, whose argmax means nothing, it is light.
    """
    labels = np.where(np.isnan(probabilities), -1, to_array(labels))
    found, counts = np.unique(labels[labels >= 0], return_counts=True)
    by_count = found[np.argsort(-counts, kind="stable")].tolist()
    shown = sorted(by_count, key=lambda label: label != target)[: len(PALETTE)]
    others = (labels >= 0) & ~np.isin(labels, shown)
    parts = [
        (labels == label, colour, class_name(names, label))
        for label, colour in zip(shown, PALETTE, strict=False)
    ]
    parts += [
        (others, MUTED, f"others ({np.unique(labels[others]).size})"),
        (labels < 0, NO_DATA, "not a number"),
    ]
    colours, handles = np.zeros((*labels.shape, 3)), []
    for chosen, colour, name in parts:
        colours[chosen] = to_rgb(colour)
        if chosen.any():
            share = chosen.mean()
            share = "<1%" if share < 0.005 else f"{share:.0%}"
            handles.append(Patch(color=colour, label=fit(f"{share} {name}", width)))
    return colours, handles
