"""What the experiments return: small frozen dataclasses of CPU tensors and the settings that made
them.

Every result can be saved, loaded back exactly and drawn (:class:`Result`). ``save`` writes two
files: ``NAME.npz`` holds the arrays (readable with plain NumPy, no pickle) and ``NAME.json`` the
settings and the arrays' names. In shapes N is the number of images, K of classes, P of occluder
positions, M of transformations, V of variants or units. Where a class does not say otherwise,
``layers`` are layers' names, ``count`` is the number of images, ``image_size`` their (H, W),
``class_names`` are in label order, ``outputs`` says what the network's outputs are
(:class:`Predictions`), and ``seconds`` is the wall time.

:mod:`.base` is what all results have in common, and what their fields share, :mod:`.files` how they
are written; then one module a kind of result. What draws a result is registered in
:mod:`zfcuda.figures`, of which nothing here knows.
"""

from zfcuda.results.base import Result
from zfcuda.results.correspondence import CorrespondenceResult
from zfcuda.results.diagram import Diagram
from zfcuda.results.filters import FilterComparison, FilterResult
from zfcuda.results.invariance import InvarianceResult, InvarianceStudy, InvarianceSummary
from zfcuda.results.maxima import EvolutionResult, TopActivations
from zfcuda.results.occlusion import LayerSums, OcclusionResult, OcclusionSummary
from zfcuda.results.predictions import BackgroundResult, Predictions, UncertaintyResult
from zfcuda.results.projections import Patches, Projections
from zfcuda.results.training import AblationResult, ProbeResult, TrainingResult

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
    "Predictions",
    "ProbeResult",
    "Projections",
    "Result",
    "TopActivations",
    "TrainingResult",
    "UncertaintyResult",
]
