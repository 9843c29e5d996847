#include "cuda/kernels.h"
#include "cuda/warp_affine.h"

namespace zfcuda::cuda {

int warp_affine(const WarpParams& p, Stream stream) {
  return run_warp_affine(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

int warp_affine_backward(const WarpParams& p, Stream stream) {
  return run_warp_affine_backward(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
