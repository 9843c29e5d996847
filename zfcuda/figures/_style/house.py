"""The house style: typography and layout, applied for as long as a figure is being built."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from zfcuda.figures._style.colours import INK, MUTED
from zfcuda.figures._style.showing import NotebookFigure
from zfcuda.figures._style.text import fit
from zfcuda.storage.files import printable

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


def styled(build: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a figure function under the house style, and lay the figure out before returning it.
    Names may hold what no font has, as file names do; it is shown as a question mark.

    Laying out takes most of a figure's time: it is done here, not again at every draw. What
    matplotlib creates lazily (tick labels) is made inside the style; later it would take whatever
    style the caller has.
    """

    @functools.wraps(build)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_RC):
            figure = build(*args, **kwargs)
            for text in figure.findobj(Text):
                text.set_text(printable(text.get_text()))
            for axis in figure.findobj(Axis):
                axis.get_ticklabels()
        _lay_out(figure)
        return figure

    return wrapper


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
    """Register a figure function for a class of results, whose ``plot`` it then is.

    Raises:
        ValueError: the class has one already.
    """

    def register(function: Callable[P, Figure]) -> Callable[P, Figure]:
        if kind in draw.registry:
            raise ValueError(f"{kind.__name__} is drawn by {draw.registry[kind].__name__} already")
        draw.register(kind, function)
        return function

    return register
