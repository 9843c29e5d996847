"""What the experiments return: small frozen dataclasses of CPU tensors and the settings that made
them.

Every result can be saved, loaded back exactly and drawn (:class:`Result`). ``save`` writes two
files: ``NAME.npz`` holds the arrays (readable with plain NumPy, no pickle) and ``NAME.json`` the
settings and the arrays' names. In shapes N is the number of images, K of classes, P of occluder
positions, M of transformations, V of variants or units.

:mod:`.base` is what all results have in common, from a value to its parts (:mod:`.packing`) and
their two files (:mod:`.files`); :mod:`.checks` and :mod:`.scores` are what their fields share. Then
one module a result. Results of experiments that stand on these have theirs beside the experiment.
"""

from zfcuda.results.background import BackgroundResult
from zfcuda.results.base import Result
from zfcuda.results.invariance import InvarianceResult
from zfcuda.results.invariance_study import InvarianceStudy
from zfcuda.results.occlusion import LayerSums, OcclusionResult
from zfcuda.results.patches import Patches
from zfcuda.results.predictions import Predictions
from zfcuda.results.projections import Projections

__all__ = [
    "BackgroundResult",
    "InvarianceResult",
    "InvarianceStudy",
    "LayerSums",
    "OcclusionResult",
    "Patches",
    "Predictions",
    "Projections",
    "Result",
]
