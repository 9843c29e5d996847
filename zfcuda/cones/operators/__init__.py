"""What each operator does on cones, a file a family.

Geometry (what a rectangle reaches, what it depends on), its step on the patches of occluders and on
the signals of units, what it costs, and the words for it: each function is a case of a behaviour
(:mod:`.behaviours`). Rectangles, patches and signals are :mod:`.rectangles`, :mod:`.patches` and
:mod:`.signals`.
"""

from zfcuda.cones.operators import (
    convolution,
    each_pixel,
    fixed,
    global_pools,
    joining,
    pooling,
    rearranging,
    resampling,
    transposed_convolution,
    unpooling,
)

__all__ = [
    "convolution",
    "each_pixel",
    "fixed",
    "global_pools",
    "joining",
    "pooling",
    "rearranging",
    "resampling",
    "transposed_convolution",
    "unpooling",
]
