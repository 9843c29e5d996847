"""How certain a network is, and how far that can be trusted (the talk's supplement).

:mod:`.experiment` asks the network and keeps the pictures that it is :mod:`.least_certain` of,
:mod:`.result` is what comes out.
"""

from zfcuda.uncertainty.experiment import uncertainty_of
from zfcuda.uncertainty.result import Reliability, UncertaintyResult

__all__ = ["Reliability", "UncertaintyResult", "uncertainty_of"]
