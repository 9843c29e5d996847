"""Projections of units to the input: the deconvnet (Zeiler & Fergus 2014, section 2.1).

What is asked for (:mod:`.request`) is carried down by one of two engines (:mod:`.engines` decides):
inside backward cones (:mod:`.on_cones`), or by autograd under the deconvnet's rules
(:mod:`.by_autograd`). Both leave the same (:mod:`.carried`), which comes back as whole pictures
(:mod:`.pictures`) or as the patches that units depend on (:mod:`.patches`).
"""

from zfcuda.deconvnet.patches import project, project_listed
from zfcuda.deconvnet.pictures import deconv, projections
from zfcuda.deconvnet.request import Norm, Overlap, Rule, Seed

__all__ = [
    "Norm",
    "Overlap",
    "Rule",
    "Seed",
    "deconv",
    "project",
    "project_listed",
    "projections",
]
