#include "cuda/kernels.h"
#include "cuda/occlude.h"

namespace zfcuda::cuda {

int occlude(const OccludeParams& p, Stream stream) {
  return run_occlude(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
