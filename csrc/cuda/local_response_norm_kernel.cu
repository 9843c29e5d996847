#include "cuda/kernels.h"
#include "cuda/local_response_norm.h"

namespace zfcuda::cuda {

int local_response_norm(const LrnParams& p, Stream stream) {
  return run_local_response_norm(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
