"""From a call that a model makes to its rule (:mod:`zfcuda.graph.nodes`), however it is spelled.

A convolution may be a module or a function; a ReLU also a method, and in place; a sum an operator.
Every spelling comes down to one *reader* here: a function of the call's arguments, in which values
of the graph appear as :class:`zfcuda.graph.nodes.Value`. A reader answers with the rule and the
values that it takes, or with None where the call is not of the kind after all.

One module a family of calls, each with its readers and how they are spelled; :mod:`.reading` looks
calls up in all of them.
"""

from zfcuda.graph.recognition.reading import module_kind, read
from zfcuda.graph.recognition.spellings import NotDeterministic

__all__ = ["NotDeterministic", "module_kind", "read"]
