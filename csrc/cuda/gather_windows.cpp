#include "cuda/gather_windows.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int gather_windows_on_host(const GatherWindowsParams& p) {
  return run_gather_windows(p, HostLaunch{});
}

namespace {

void gather_windows_op(const std::optional<at::Tensor>& base, at::TensorList patches,
                       const at::Tensor& windows, const at::Tensor& out, int64_t largest,
                       int64_t channel, double outside, bool add) {
  check_built_for("gather_windows", out);
  const c10::DeviceGuard guard(out.device());
  launch(ZF_CUDA_KERNEL(gather_windows),
         prepare_gather_windows(base, patches, windows, out, largest, channel, outside, add));
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("gather_windows", gather_windows_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("gather_windows", gather_windows_op);
}

}  // namespace zfcuda::cuda
