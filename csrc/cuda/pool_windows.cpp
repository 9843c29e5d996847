#include "cuda/pool_windows.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int pool_windows_on_host(const PoolWindowsParams& p) {
  return run_pool_windows(p, HostLaunch{});
}

namespace {

void pool_windows_op(const at::Tensor& base, at::TensorList patches, const at::Tensor& windows,
                     const at::Tensor& out, int64_t largest, at::IntArrayRef kernel_size,
                     at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                     bool relu) {
  check_built_for("pool_windows", out);
  const c10::DeviceGuard guard(out.device());
  launch(ZF_CUDA_KERNEL(pool_windows),
         prepare_pool_windows(base, patches, windows, out, largest,
                              {kernel_size, stride, padding, dilation}, relu));
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("pool_windows", pool_windows_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("pool_windows", pool_windows_op);
}

}  // namespace zfcuda::cuda
