"""A model as a graph of the calls that it makes, each with the rule that cones need of it.

In the graph a value never changes: ``x.relu_()`` makes a new one, and whoever uses ``x`` afterwards
uses that. The user's model is neither changed nor copied; rules hold its own weights.

From a model to its graph: :mod:`.tracing` has the model's own pass recorded (:mod:`.record`) and
made into nodes (:mod:`.building`), whose calls are read one by one (:mod:`.reading`,
:mod:`.resampling`), followed by their axes (:mod:`.axes`, :mod:`.pixelwise`) and by where numbers
go (:mod:`.moving`), or known together (:mod:`.recognition`). :mod:`.recall` finds graphs again.
:mod:`.nodes` is the graph itself, :mod:`.rules` what its nodes do, and :mod:`.barriers` names what
is global by nature.
"""

from zfcuda.graph.guards import Untraceable
from zfcuda.graph.nodes import Graph, Node
from zfcuda.graph.pixelwise import fan_in
from zfcuda.graph.tracing import trace

__all__ = ["Graph", "Node", "Untraceable", "fan_in", "trace"]
