"""Figures: each takes a result, returns a `matplotlib.figure.Figure`, and computes nothing.

The figures are drawn on their own Agg canvas: call ``figure.savefig(path)``. ``result.plot()``
hands them to pyplot as well, where it can show them.
Display images are NumPy arrays ``[N,H,W,3]`` in 0..1; every one of them is optional.
"""

from ._style import show_with_pyplot
from .ablation import ablation
from .background import background_effect
from .correspondence import correspondence
from .diagram import diagram
from .evolution import feature_evolution
from .filters import first_layer_filters, first_layers
from .invariance import invariance_curve
from .invariance_study import invariance_study
from .invariance_summary import invariance_summary
from .maxima import top_activations
from .occlusion import occlusion_row
from .occlusion_summary import occlusion_summary
from .patches import projection_patches
from .prediction import prediction
from .probe import probe
from .projection import projection_grid
from .training import training_curves
from .uncertainty import uncertainty

__all__ = [
    "ablation",
    "background_effect",
    "correspondence",
    "diagram",
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
