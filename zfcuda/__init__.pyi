"""The public names and their homes: type checkers read them here, and zfcuda/__init__.py does."""

from zfcuda import data as data
from zfcuda import figures as figures
from zfcuda import models as models
from zfcuda import nn as nn
from zfcuda import ops as ops
from zfcuda import results as results
from zfcuda import training as training
from zfcuda.cones.planning import Plan as Plan
from zfcuda.cones.profile import DeviceProfile as DeviceProfile
from zfcuda.cones.profile import profile_of as profile_of
from zfcuda.experiments.ablations import ablation as ablation
from zfcuda.experiments.backgrounds import background_effect as background_effect
from zfcuda.experiments.correspondences import correspondence as correspondence
from zfcuda.experiments.deconvnet.projecting import deconv as deconv
from zfcuda.experiments.deconvnet.projecting import project as project
from zfcuda.experiments.deconvnet.projecting import projections as projections
from zfcuda.experiments.diagrams import diagram_of as diagram_of
from zfcuda.experiments.evolution import evolution as evolution
from zfcuda.experiments.filters import compare_filters as compare_filters
from zfcuda.experiments.filters import first_layer_filters as first_layer_filters
from zfcuda.experiments.invariance.experiment import invariance_study as invariance_study
from zfcuda.experiments.invariance.experiment import rotation as rotation
from zfcuda.experiments.invariance.experiment import scaling as scaling
from zfcuda.experiments.invariance.experiment import translation as translation
from zfcuda.experiments.invariance.over import invariance_over as invariance_over
from zfcuda.experiments.maxima.finding import top_activations as top_activations
from zfcuda.experiments.maxima.recording import record_activations as record_activations
from zfcuda.experiments.occlusion.experiment import occlusion as occlusion
from zfcuda.experiments.occlusion.experiment import plan as plan
from zfcuda.experiments.occlusion.over import occlusion_over as occlusion_over
from zfcuda.experiments.predictions import predict as predict
from zfcuda.experiments.predictions import uncertainty_of as uncertainty_of
from zfcuda.experiments.probing import linear_probe as linear_probe
from zfcuda.results.correspondence import CorrespondenceResult as CorrespondenceResult
from zfcuda.results.diagram import Diagram as Diagram
from zfcuda.results.filters import FilterComparison as FilterComparison
from zfcuda.results.filters import FilterResult as FilterResult
from zfcuda.results.invariance import InvarianceResult as InvarianceResult
from zfcuda.results.invariance import InvarianceStudy as InvarianceStudy
from zfcuda.results.invariance import InvarianceSummary as InvarianceSummary
from zfcuda.results.maxima import EvolutionResult as EvolutionResult
from zfcuda.results.maxima import TopActivations as TopActivations
from zfcuda.results.occlusion import LayerSums as LayerSums
from zfcuda.results.occlusion import OcclusionResult as OcclusionResult
from zfcuda.results.occlusion import OcclusionSummary as OcclusionSummary
from zfcuda.results.predictions import BackgroundResult as BackgroundResult
from zfcuda.results.predictions import Predictions as Predictions
from zfcuda.results.predictions import UncertaintyResult as UncertaintyResult
from zfcuda.results.projections import Patches as Patches
from zfcuda.results.projections import Projections as Projections
from zfcuda.results.stored import StoredActivations as StoredActivations
from zfcuda.results.training import AblationResult as AblationResult
from zfcuda.results.training import ProbeResult as ProbeResult

__version__: str
__all__: list[str]

def load_library() -> None: ...
