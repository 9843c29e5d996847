"""Experiments on every image of a data set: a result an image, stopped at any moment and gone on
with, shared by the processes of ``torchrun``.

:mod:`.folder` is what such runs have in common, :mod:`.settings` what their results depend on,
:mod:`.numbered` their images, :mod:`.beginnings` the checks before them. :mod:`.occlusion` and
:mod:`.invariance` are the experiments; :mod:`.occlusion_summary` (with :mod:`.localisation`) and
:mod:`.invariance_summary` (with :mod:`.moments`) what they come to.
"""

from zfcuda.results.invariance import InvarianceSummary
from zfcuda.results.occlusion import OcclusionSummary
from zfcuda.runs.invariance import invariance_over
from zfcuda.runs.occlusion import occlusion_over

__all__ = ["InvarianceSummary", "OcclusionSummary", "invariance_over", "occlusion_over"]
