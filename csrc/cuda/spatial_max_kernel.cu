#include "cuda/kernels.h"
#include "cuda/spatial_max.h"

namespace zfcuda::cuda {

int spatial_max(const SpatialMaxParams& p, Stream stream) {
  return run_spatial_max(p, DeviceLaunch{static_cast<cudaStream_t>(stream)});
}

}  // namespace zfcuda::cuda
