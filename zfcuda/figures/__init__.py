"""Figures: each takes a result, returns a `matplotlib.figure.Figure`, and computes nothing.

The figures are drawn on their own Agg canvas: call ``figure.savefig(path)``. ``result.plot()``
hands them to pyplot as well, where it can show them.
Display images are NumPy arrays ``[N,H,W,3]`` in 0..1; every one of them is optional.
"""

from zfcuda.figures.ablation import ablation
from zfcuda.figures.background import background_effect
from zfcuda.figures.correspondence import correspondence
from zfcuda.figures.diagram import diagram
from zfcuda.figures.evolution import feature_evolution
from zfcuda.figures.filters import first_layer_filters, first_layers
from zfcuda.figures.invariance import invariance_curve
from zfcuda.figures.invariance_study import invariance_study, invariance_summary
from zfcuda.figures.maxima import top_activations
from zfcuda.figures.occlusion import occlusion_row
from zfcuda.figures.occlusion_summary import occlusion_summary
from zfcuda.figures.prediction import prediction
from zfcuda.figures.probe import probe
from zfcuda.figures.projection import projection_grid, projection_patches
from zfcuda.figures.style import draw, show_with_pyplot
from zfcuda.figures.training import training_curves
from zfcuda.figures.uncertainty import uncertainty

__all__ = [
    "ablation",
    "background_effect",
    "correspondence",
    "diagram",
    "draw",
    "feature_evolution",
    "first_layer_filters",
    "first_layers",
    "invariance_curve",
    "invariance_study",
    "invariance_summary",
    "occlusion_row",
    "occlusion_summary",
    "prediction",
    "probe",
    "projection_grid",
    "projection_patches",
    "show_with_pyplot",
    "top_activations",
    "training_curves",
    "uncertainty",
]
