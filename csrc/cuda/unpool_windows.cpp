#include "cuda/unpool_windows.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int unpool_windows_on_host(const UnpoolWindowsParams& p) {
  return run_unpool_windows(p, HostLaunch{});
}

namespace {

void unpool_windows_op(const at::Tensor& switches, at::TensorList patches,
                       const at::Tensor& windows, const at::Tensor& out, int64_t largest,
                       at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                       at::IntArrayRef dilation, bool relu, bool overwrite) {
  check_built_for("unpool_windows", out);
  const c10::DeviceGuard guard(out.device());
  launch(ZF_CUDA_KERNEL(unpool_windows),
         prepare_unpool_windows(switches, patches, windows, out, largest,
                                {kernel_size, stride, padding, dilation}, relu, overwrite));
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("unpool_windows", unpool_windows_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("unpool_windows", unpool_windows_op);
}

}  // namespace zfcuda::cuda
