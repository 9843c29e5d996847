"""A convnet layer with its attached deconvnet layer (Zeiler & Fergus 2014, figure 1), as data.

:mod:`.building` reads the layer off the model's own graph, :mod:`.naming` says what each call does
on the way up and on the way down, :mod:`.switching` takes a real example of pooling and unpooling,
:mod:`.result` is what comes out.
"""

from zfcuda.diagrams.building import diagram_of
from zfcuda.results.diagram import Diagram, Source, Step, SwitchExample

__all__ = ["Diagram", "Source", "Step", "SwitchExample", "diagram_of"]
