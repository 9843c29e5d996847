"""Occlusion: which part of the image carries the decision (Zeiler & Fergus 2014, section 4.2).

:mod:`.experiment` has the public calls. Their arguments become a :mod:`.request` about
:mod:`.boxes`; what all images share is :mod:`.prepared` once; then it runs in :mod:`.cones` or in
:mod:`.whole_passes`, either of which gives what :mod:`.found` says.
"""

from zfcuda.sensitivity.boxes import occluder_grid
from zfcuda.sensitivity.experiment import occlusion, plan, prepare
from zfcuda.sensitivity.prepared import Prepared
from zfcuda.sensitivity.request import Method

__all__ = ["Method", "Prepared", "occluder_grid", "occlusion", "plan", "prepare"]
