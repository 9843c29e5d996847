"""The ZF network, a small one, SqueezeNet 1.1, and loading of these and other trained networks."""

from zfcuda.models.loading import class_names, load, preprocessing
from zfcuda.models.specs import with_weights
from zfcuda.models.squeezenet import squeezenet1_1
from zfcuda.models.zeiler_fergus import zfnet, zfnet_small

__all__ = [
    "class_names",
    "load",
    "preprocessing",
    "squeezenet1_1",
    "with_weights",
    "zfnet",
    "zfnet_small",
]
