"""What each part of an architecture is worth: networks with layers removed or resized, trained anew
(Zeiler & Fergus 2014, section 5.1, table 3).

:mod:`.variants` are changes, :mod:`.altering` makes them, :mod:`.trainings` trains what comes of
them, :mod:`.result` is the table.
"""

from zfcuda.ablations.altering import altered
from zfcuda.ablations.trainings import ablation
from zfcuda.ablations.variants import TABLE_3, Variant
from zfcuda.results.ablation import AblationResult

__all__ = ["TABLE_3", "AblationResult", "Variant", "ablation", "altered"]
