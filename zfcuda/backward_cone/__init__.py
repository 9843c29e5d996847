"""What a unit depends on, and nothing else: the deconvnet inside backward cones.

One forward pass (:func:`observe`) leaves the switches and whatever else the way down asks for.
:func:`descend` then carries many units at once down the graph, last node first. On each map a unit
has a *signal*: a point as long as it is a single element (a pool's signal is one element of the map
below, by its switch), then a window of the map. The first convolution below a point costs a copy of
its filter; every other step works on a batch of windows.

All windows of a batch have one size on a map: the largest rectangle that any of its units has
there. They are moved so that they lie on the map, which keeps the padding out of them, and makes
them the whole map, without a special case, where the cones have grown that large. What is in a
window but not in its unit's rectangle is zero.

One module an idea, from below: :mod:`.manner` (how signals go down, and through what),
:mod:`.forward_pass`, :mod:`.signals`, :mod:`.batch` (signals beside the forward pass), the steps
down (:mod:`.convolution`, :mod:`.pooling`, :mod:`.gradients`), :mod:`.descent` (node after node),
:mod:`.units` (from units to patches of the image).
"""

from zfcuda.backward_cone.forward_pass import Observed, arranged, forward_bytes, observe
from zfcuda.backward_cone.manner import Manner, obstacle
from zfcuda.backward_cone.units import Projected, descend

__all__ = [
    "Manner",
    "Observed",
    "Projected",
    "arranged",
    "descend",
    "forward_bytes",
    "observe",
    "obstacle",
]
