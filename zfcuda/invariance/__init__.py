"""How far the model's answer survives turning, moving and scaling the image (Zeiler & Fergus 2014,
section 4.1, figure 5; rotation is the talk's figure 6).

:mod:`.curves` has the three public experiments, which are one (:mod:`.experiment`) with different
:mod:`.values` and :mod:`.matrices`; :mod:`.study` is several of them for several images, and
:mod:`.layers` says whose features to compare.
"""

from zfcuda.invariance.curves import rotation, scaling, translation
from zfcuda.invariance.experiment import Fill, Layers, Target
from zfcuda.invariance.layers import early_and_late
from zfcuda.invariance.matrices import rotation_matrices, scaling_matrices, translation_matrices
from zfcuda.invariance.study import families_of, invariance_study
from zfcuda.invariance.values import Values

__all__ = [
    "Fill",
    "Layers",
    "Target",
    "Values",
    "early_and_late",
    "families_of",
    "invariance_study",
    "rotation",
    "rotation_matrices",
    "scaling",
    "scaling_matrices",
    "translation",
    "translation_matrices",
]
