"""Figures: each takes a result, returns a `matplotlib.figure.Figure`, and computes nothing.

The figures are drawn on their own Agg canvas and never shown: call ``figure.savefig(path)``.
Display images are NumPy arrays ``[N,H,W,3]`` in 0..1; every one of them is optional.
"""

from .background import background_effect
from .correspondence import correspondence
from .diagram import diagram
from .invariance import invariance_curve
from .invariance_study import invariance_study
from .maxima import top_activations
from .occlusion import occlusion_row
from .patches import projection_patches
from .prediction import prediction
from .projection import projection_grid
from .training import training_curves
from .uncertainty import uncertainty

__all__ = [
    "background_effect",
    "correspondence",
    "diagram",
    "invariance_curve",
    "invariance_study",
    "occlusion_row",
    "prediction",
    "projection_grid",
    "projection_patches",
    "top_activations",
    "training_curves",
    "uncertainty",
]
