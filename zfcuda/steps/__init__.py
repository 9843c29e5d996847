"""A graph as the fewest passes over memory: batch norm folded into convolutions, ReLUs taken along.

A :class:`Step` (:mod:`.step`) is one node with the cheap nodes around it that no one else looks at;
:mod:`.fusing` makes them of a graph. The same steps run on whole maps (:mod:`.running`) and inside
cones (:mod:`zfcuda.forward_cone`).
"""

from zfcuda.steps.fusing import fuse
from zfcuda.steps.running import Values, affine, finish, run
from zfcuda.steps.step import LOCAL, Step, Steps

__all__ = ["LOCAL", "Step", "Steps", "Values", "affine", "finish", "fuse", "run"]
