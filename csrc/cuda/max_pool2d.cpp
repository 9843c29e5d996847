#include "cuda/max_pool2d.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int max_pool2d_on_host(const MaxPoolParams& p) {
  return run_max_pool2d(p, HostLaunch{});
}

namespace {

std::tuple<at::Tensor, at::Tensor> max_pool2d_op(const at::Tensor& x, at::IntArrayRef kernel_size,
                                                 at::IntArrayRef stride, at::IntArrayRef padding,
                                                 at::IntArrayRef dilation, bool ceil_mode,
                                                 bool relu) {
  check_built_for("max_pool2d", x);
  const c10::DeviceGuard guard(x.device());
  const auto call =
      prepare_max_pool2d(x, {kernel_size, stride, padding, dilation}, ceil_mode, relu);
  launch(ZF_CUDA_KERNEL(max_pool2d), call);
  return {call.out, call.second_out};
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("max_pool2d", max_pool2d_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("max_pool2d", max_pool2d_op);
}

}  // namespace zfcuda::cuda
