"""What did this unit see? Deconvnet projections, occlusion maps and invariance curves for CNNs.

After Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014)::

    import zfcuda

    model = zfcuda.models.load("squeezenet1_1")
    x = zfcuda.models.preprocessing("squeezenet1_1").to_input(zfcuda.data.read_image("cat.jpg"))

    zfcuda.deconv(model, x, "features.6")     # what the strongest unit of a layer saw
    zfcuda.occlusion(model, x).plot()         # which part of the image carries the decision
    zfcuda.rotation(model, x).plot()          # how far the answer survives turning the image

Importing the package loads the compiled ops, with torch where that is imported later; everything
else is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zfcuda import _load

if TYPE_CHECKING:
    from zfcuda import data, datasets, figures, models, nn, ops, results, training
    from zfcuda.ablations import AblationResult, ablation
    from zfcuda.backgrounds import background_effect
    from zfcuda.correspondences import CorrespondenceResult, correspondence
    from zfcuda.deconvnet import deconv, project, projections
    from zfcuda.diagrams import Diagram, diagram_of
    from zfcuda.feature_evolution import EvolutionResult, evolution
    from zfcuda.filters import (
        FilterComparison,
        FilterResult,
        compare_filters,
        first_layer_filters,
    )
    from zfcuda.invariance import invariance_study, rotation, scaling, translation
    from zfcuda.maxima import (
        StoredActivations,
        TopActivations,
        record_activations,
        top_activations,
    )
    from zfcuda.planning import Plan
    from zfcuda.predictions import predict
    from zfcuda.probing import ProbeResult, linear_probe
    from zfcuda.results import (
        BackgroundResult,
        InvarianceResult,
        InvarianceStudy,
        LayerSums,
        OcclusionResult,
        Patches,
        Predictions,
        Projections,
    )
    from zfcuda.runs import InvarianceSummary, OcclusionSummary, invariance_over, occlusion_over
    from zfcuda.sensitivity import occlusion, plan
    from zfcuda.uncertainty import UncertaintyResult, uncertainty_of

__version__ = "0.1.0"

__all__ = [
    "AblationResult",
    "BackgroundResult",
    "CorrespondenceResult",
    "Diagram",
    "EvolutionResult",
    "FilterComparison",
    "FilterResult",
    "InvarianceResult",
    "InvarianceStudy",
    "InvarianceSummary",
    "LayerSums",
    "OcclusionResult",
    "OcclusionSummary",
    "Patches",
    "Plan",
    "Predictions",
    "ProbeResult",
    "Projections",
    "StoredActivations",
    "TopActivations",
    "UncertaintyResult",
    "ablation",
    "background_effect",
    "compare_filters",
    "correspondence",
    "data",
    "datasets",
    "deconv",
    "diagram_of",
    "evolution",
    "figures",
    "first_layer_filters",
    "invariance_over",
    "invariance_study",
    "linear_probe",
    "models",
    "nn",
    "occlusion",
    "occlusion_over",
    "ops",
    "plan",
    "predict",
    "project",
    "projections",
    "record_activations",
    "results",
    "rotation",
    "scaling",
    "top_activations",
    "training",
    "translation",
    "uncertainty_of",
]

_HOME = {
    "AblationResult": "ablations",
    "ablation": "ablations",
    "EvolutionResult": "feature_evolution",
    "FilterComparison": "filters",
    "FilterResult": "filters",
    "compare_filters": "filters",
    "evolution": "feature_evolution",
    "first_layer_filters": "filters",
    "BackgroundResult": "results",
    "InvarianceResult": "results",
    "InvarianceStudy": "results",
    "LayerSums": "results",
    "OcclusionResult": "results",
    "Patches": "results",
    "Predictions": "results",
    "Projections": "results",
    "background_effect": "backgrounds",
    "CorrespondenceResult": "correspondences",
    "correspondence": "correspondences",
    "Diagram": "diagrams",
    "deconv": "deconvnet",
    "diagram_of": "diagrams",
    "InvarianceSummary": "runs",
    "invariance_over": "runs",
    "invariance_study": "invariance",
    "occlusion": "sensitivity",
    "OcclusionSummary": "runs",
    "occlusion_over": "runs",
    "plan": "sensitivity",
    "Plan": "planning",
    "predict": "predictions",
    "ProbeResult": "probing",
    "linear_probe": "probing",
    "project": "deconvnet",
    "projections": "deconvnet",
    "rotation": "invariance",
    "scaling": "invariance",
    "StoredActivations": "maxima",
    "TopActivations": "maxima",
    "record_activations": "maxima",
    "top_activations": "maxima",
    "translation": "invariance",
    "UncertaintyResult": "uncertainty",
    "uncertainty_of": "uncertainty",
}
_MODULES = {"data", "datasets", "figures", "models", "nn", "ops", "results", "training"}

_load.with_torch()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"zfcuda.{name}")
    if name in _HOME:
        return getattr(import_module(f"zfcuda.{_HOME[name]}"), name)
    raise AttributeError(f"module 'zfcuda' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
