"""What all figures share: typography, palettes, panels. Object-oriented matplotlib only.

Only :mod:`.showing` touches pyplot, and nothing leaves a trace in ``matplotlib.rcParams``: a figure
function is wrapped in `styled`, which applies the style for as long as the figure is being built.
"""

from zfcuda.figures._style.arrays import (
    Array,
    cut_out,
    display_images,
    display_signal,
    scale_of,
    scaled,
    stretched_inputs,
    to_array,
)
from zfcuda.figures._style.colours import INK, LINE_STYLES, MUTED, NO_DATA, PALETTE
from zfcuda.figures._style.house import DPI, draw, draws, new_figure, styled
from zfcuda.figures._style.labels import (
    defined_labels,
    label_colours,
    label_legend,
    pick_labels,
    score_axis,
    score_name,
    score_source,
)
from zfcuda.figures._style.panels import below, colour_bar, show_image
from zfcuda.figures._style.showing import show_with_pyplot
from zfcuda.figures._style.text import class_name, fit, fit_ends, fit_name, fold_name, number

__all__ = [
    "DPI",
    "INK",
    "LINE_STYLES",
    "MUTED",
    "NO_DATA",
    "PALETTE",
    "Array",
    "below",
    "class_name",
    "colour_bar",
    "cut_out",
    "defined_labels",
    "display_images",
    "display_signal",
    "draw",
    "draws",
    "fit",
    "fit_ends",
    "fit_name",
    "fold_name",
    "label_colours",
    "label_legend",
    "new_figure",
    "number",
    "pick_labels",
    "scale_of",
    "scaled",
    "score_axis",
    "score_name",
    "score_source",
    "show_image",
    "show_with_pyplot",
    "stretched_inputs",
    "styled",
    "to_array",
]
