"""What each layer's features are worth to a linear classifier (Zeiler & Fergus 2014, section 5.2,
table 7)."""

from zfcuda.probing.probe import linear_probe
from zfcuda.probing.stages import layers_by_depth
from zfcuda.results.probe import PIXELS, ProbeResult

__all__ = ["PIXELS", "ProbeResult", "layers_by_depth", "linear_probe"]
