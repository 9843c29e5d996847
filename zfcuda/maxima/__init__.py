"""The strongest activations of every map over a data set (Zeiler & Fergus 2014, figure 2): in
memory, or streamed into a folder by a run that can be killed, resumed and spread over processes."""

from zfcuda.maxima.choosing import Maps
from zfcuda.maxima.finding import top_activations
from zfcuda.maxima.recording import record_activations
from zfcuda.maxima.stored import StoredActivations
from zfcuda.results.maxima import TopActivations

__all__ = [
    "Maps",
    "StoredActivations",
    "TopActivations",
    "record_activations",
    "top_activations",
]
