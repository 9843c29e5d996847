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
    from zfcuda.ablations.result import AblationResult
    from zfcuda.ablations.trainings import ablation
    from zfcuda.backgrounds import background_effect
    from zfcuda.correspondences.experiment import correspondence
    from zfcuda.correspondences.result import CorrespondenceResult
    from zfcuda.deconvnet.patches import project
    from zfcuda.deconvnet.pictures import deconv, projections
    from zfcuda.diagrams.building import diagram_of
    from zfcuda.diagrams.result import Diagram
    from zfcuda.feature_evolution.experiment import evolution
    from zfcuda.feature_evolution.result import EvolutionResult
    from zfcuda.filters.comparing import compare_filters
    from zfcuda.filters.first_layer import first_layer_filters
    from zfcuda.filters.result import FilterComparison, FilterResult
    from zfcuda.invariance.curves import rotation, scaling, translation
    from zfcuda.invariance.study import invariance_study
    from zfcuda.maxima.finding import top_activations
    from zfcuda.maxima.recording import record_activations
    from zfcuda.maxima.result import TopActivations
    from zfcuda.maxima.stored import StoredActivations
    from zfcuda.planning.plan import Plan
    from zfcuda.predictions import predict
    from zfcuda.probing.probe import linear_probe
    from zfcuda.probing.result import ProbeResult
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
    from zfcuda.runs.invariance import invariance_over
    from zfcuda.runs.invariance_summary import InvarianceSummary
    from zfcuda.runs.occlusion import occlusion_over
    from zfcuda.runs.occlusion_summary import OcclusionSummary
    from zfcuda.sensitivity.experiment import occlusion, plan
    from zfcuda.uncertainty.experiment import uncertainty_of
    from zfcuda.uncertainty.result import UncertaintyResult

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
    "AblationResult": "ablations.result",
    "ablation": "ablations.trainings",
    "EvolutionResult": "feature_evolution.result",
    "FilterComparison": "filters.result",
    "FilterResult": "filters.result",
    "compare_filters": "filters.comparing",
    "evolution": "feature_evolution.experiment",
    "first_layer_filters": "filters.first_layer",
    "BackgroundResult": "results.background",
    "InvarianceResult": "results.invariance",
    "InvarianceStudy": "results.invariance_study",
    "LayerSums": "results.occlusion",
    "OcclusionResult": "results.occlusion",
    "Patches": "results.patches",
    "Predictions": "results.predictions",
    "Projections": "results.projections",
    "background_effect": "backgrounds",
    "CorrespondenceResult": "correspondences.result",
    "correspondence": "correspondences.experiment",
    "Diagram": "diagrams.result",
    "deconv": "deconvnet.pictures",
    "diagram_of": "diagrams.building",
    "InvarianceSummary": "runs.invariance_summary",
    "invariance_over": "runs.invariance",
    "invariance_study": "invariance.study",
    "occlusion": "sensitivity.experiment",
    "OcclusionSummary": "runs.occlusion_summary",
    "occlusion_over": "runs.occlusion",
    "plan": "sensitivity.experiment",
    "Plan": "planning.plan",
    "predict": "predictions",
    "ProbeResult": "probing.result",
    "linear_probe": "probing.probe",
    "project": "deconvnet.patches",
    "projections": "deconvnet.pictures",
    "rotation": "invariance.curves",
    "scaling": "invariance.curves",
    "StoredActivations": "maxima.stored",
    "TopActivations": "maxima.result",
    "record_activations": "maxima.recording",
    "top_activations": "maxima.finding",
    "translation": "invariance.curves",
    "UncertaintyResult": "uncertainty.result",
    "uncertainty_of": "uncertainty.experiment",
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
