"""How features come to be during training (Zeiler & Fergus 2014, figure 4).

:mod:`.experiment` looks for the strongest activations at each of the :mod:`.checkpoints`,
:mod:`.result` is what comes out.
"""

from zfcuda.feature_evolution.checkpoints import Checkpoint
from zfcuda.feature_evolution.experiment import evolution
from zfcuda.results.maxima import EvolutionResult

__all__ = ["Checkpoint", "EvolutionResult", "evolution"]
