"""Whether a network takes a part of different objects for the same thing (Zeiler & Fergus 2014,
section 4.4, table 1).

:mod:`.experiment` hides parts at :mod:`.places` and compares the :mod:`.signs` of what changes;
:mod:`.result` is what comes out.
"""

from zfcuda.correspondences.experiment import correspondence
from zfcuda.correspondences.places import random_places
from zfcuda.results.correspondence import CorrespondenceResult

__all__ = ["CorrespondenceResult", "correspondence", "random_places"]
