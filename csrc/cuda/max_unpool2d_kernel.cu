#include "cuda/kernels.h"
#include "cuda/max_unpool2d.h"

namespace zfcuda::cuda {

int max_unpool2d(const MaxUnpoolParams& p, Stream stream) {
  return run_max_unpool2d(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

int max_unpool2d_backward(const MaxUnpoolBackwardParams& p, Stream stream) {
  return run_max_unpool2d_backward(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
