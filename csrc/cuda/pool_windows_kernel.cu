#include "cuda/kernels.h"
#include "cuda/pool_windows.h"

namespace zfcuda::cuda {

int pool_windows(const PoolWindowsParams& p, Stream stream) {
  return run_pool_windows(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
