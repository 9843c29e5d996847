"""How certain a network is, and how far that can be trusted (the talk's supplement).

:mod:`.experiment` asks the network and keeps the pictures that it is :mod:`.least_certain` of,
:mod:`.result` is what comes out.
"""

from zfcuda.results.uncertainty import Reliability, UncertaintyResult
from zfcuda.uncertainty.experiment import uncertainty_of

__all__ = ["Reliability", "UncertaintyResult", "uncertainty_of"]
