"""Figures where they are looked at: in a notebook, and in the windows of ``pyplot.show()``."""

from __future__ import annotations

import io
import os
import sys
from weakref import ref

import matplotlib as mpl
from matplotlib._pylab_helpers import Gcf
from matplotlib.figure import Figure

# Backends that draw into files: nothing is ever shown.
_FILES = {"agg", "cairo", "pdf", "pgf", "ps", "svg", "template"}
_MOST = 19  # pyplot warns from twenty on; a long script must not fill the memory
_shown: list[ref[Figure]] = []  # not by number: a closed one's may be a user's own by now


def show_with_pyplot(figure: Figure) -> Figure:
    """Hand a figure to pyplot, if pyplot could show it, and return it.

    A notebook then shows it at the cell's end, and ``pyplot.show()`` in a window, whether or not
    pyplot has been imported. pyplot holds the last few only: figures that scripts forget to close
    do not pile up. Where nothing can be shown (no display, a backend for files) pyplot is not even
    imported.
    """
    if not _can_show():
        return figure
    try:
        from matplotlib import pyplot

        # pyplot asks for a figure of this class, and gets the one that there is.
        pyplot.figure(FigureClass=lambda *_args, **_settings: figure)
    except ImportError:  # a backend that is not installed: the figure can still be saved
        return figure
    held = [one for one in (*_shown, ref(figure)) if _is_held(one())]
    for one in held[:-_MOST]:
        pyplot.close(one())
    _shown[:] = held[-_MOST:]
    return figure


def _is_held(figure: Figure | None) -> bool:
    """Whether pyplot has it open, and nobody has closed it."""
    manager = figure.canvas.manager if figure is not None else None
    return manager in Gcf.get_all_fig_managers()


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
