#pragma once

#include "common/params.h"

// Every kernel's two entries: on a CUDA stream (in *_kernel.cu; a cudaError_t comes back), and on
// the host.

namespace zfcuda::cuda {

using Stream = void*;  // a cudaStream_t, without its header

#define ZF_KERNEL(name, Params)             \
  int name(const Params& p, Stream stream); \
  int name##_on_host(const Params& p);

ZF_KERNEL(max_pool2d, MaxPoolParams)
ZF_KERNEL(max_unpool2d, MaxUnpoolParams)
ZF_KERNEL(max_unpool2d_backward, MaxUnpoolBackwardParams)
ZF_KERNEL(local_response_norm, LrnParams)
ZF_KERNEL(occlude, OccludeParams)
ZF_KERNEL(gather_windows, GatherWindowsParams)
ZF_KERNEL(pool_windows, PoolWindowsParams)
ZF_KERNEL(unpool_windows, UnpoolWindowsParams)
ZF_KERNEL(spatial_max, SpatialMaxParams)
ZF_KERNEL(warp_affine, WarpParams)
ZF_KERNEL(warp_affine_backward, WarpParams)

#undef ZF_KERNEL

}  // namespace zfcuda::cuda
