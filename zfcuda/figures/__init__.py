"""Figures: each takes a result, returns a `matplotlib.figure.Figure`, and computes nothing.

The figures are drawn on their own Agg canvas: call ``figure.savefig(path)``. ``result.plot()``
hands them to pyplot as well, where it can show them.
Display images are NumPy arrays ``[N,H,W,3]`` in 0..1; every one of them is optional.
`preprocessing` is the network's (:func:`zfcuda.models.preprocessing`): it makes a result's own
images and signals what their colours are. Without it, and without display images, the network's
three channels stand for red, green and blue, images stretched to 0..1 (other than three: grey).
"""

from zfcuda.figures.correspondence import correspondence
from zfcuda.figures.diagram import diagram
from zfcuda.figures.filters import first_layer_filters, first_layers
from zfcuda.figures.invariance import invariance_curve, invariance_study, invariance_summary
from zfcuda.figures.maxima import feature_evolution, top_activations
from zfcuda.figures.occlusion import occlusion_row, occlusion_summary
from zfcuda.figures.prediction import prediction, uncertainty
from zfcuda.figures.projection import background_effect, projection_grid, projection_patches
from zfcuda.figures.style import draw, show_with_pyplot
from zfcuda.figures.training import ablation, probe, training_curves

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
