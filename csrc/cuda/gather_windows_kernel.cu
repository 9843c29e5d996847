#include "cuda/gather_windows.h"
#include "cuda/kernels.h"

namespace zfcuda::cuda {

int gather_windows(const GatherWindowsParams& p, Stream stream) {
  return run_gather_windows(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
