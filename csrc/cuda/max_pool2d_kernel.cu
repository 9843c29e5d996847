#include "cuda/kernels.h"
#include "cuda/max_pool2d.h"

namespace zfcuda::cuda {

int max_pool2d(const MaxPoolParams& p, Stream stream) {
  return run_max_pool2d(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
