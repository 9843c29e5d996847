"""One typed function per kernel, with its fake (shape-only) kernel and its autograd rule beside it.

An op's schema and checks are in ``csrc/ops``, its kernels in ``csrc/cpu`` and ``csrc/cuda``, in
files of its name; the same functions in plain PyTorch are in :mod:`zfcuda.ops.reference`.

All take float32, float64, float16 or bfloat16 (16-bit types are computed in float32), contiguous or
channels_last (the result has the input's layout; other strides are copied to contiguous first),
empty batches, and run on the tensor's own device and its current stream. Pooling, unpooling,
normalisation and warping are differentiable once, in reverse and in forward mode; any other
derivative raises.
"""

from zfcuda.ops.library import IntPair
from zfcuda.ops.local_response_norm import local_response_norm
from zfcuda.ops.max_pool2d import max_pool2d, switches_to_indices
from zfcuda.ops.max_unpool2d import max_unpool2d
from zfcuda.ops.occlude import occlude
from zfcuda.ops.spatial_max import spatial_max
from zfcuda.ops.warp_affine import warp_affine
from zfcuda.ops.windows import WINDOW_COLUMNS, gather_windows, pool_windows, unpool_windows

__all__ = [
    "WINDOW_COLUMNS",
    "IntPair",
    "gather_windows",
    "local_response_norm",
    "max_pool2d",
    "max_unpool2d",
    "occlude",
    "pool_windows",
    "spatial_max",
    "switches_to_indices",
    "unpool_windows",
    "warp_affine",
]
