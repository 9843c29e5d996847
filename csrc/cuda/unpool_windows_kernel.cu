#include "cuda/kernels.h"
#include "cuda/unpool_windows.h"

namespace zfcuda::cuda {

int unpool_windows(const UnpoolWindowsParams& p, Stream stream) {
  return run_unpool_windows(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
