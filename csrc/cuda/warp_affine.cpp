#include "cuda/warp_affine.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int warp_affine_on_host(const WarpParams& p) {
  return run_warp_affine(p, HostLaunch{});
}

int warp_affine_backward_on_host(const WarpParams& p) {
  return run_warp_affine_backward(p, HostLaunch{});
}

namespace {

at::Tensor warp_affine_op(const at::Tensor& x, const at::Tensor& matrices, const at::Tensor& fill) {
  check_built_for("warp_affine", x);
  const c10::DeviceGuard guard(x.device());
  return launch(ZF_CUDA_KERNEL(warp_affine), prepare_warp_affine(x, matrices, fill));
}

at::Tensor warp_affine_backward_op(const at::Tensor& grad, const at::Tensor& matrices,
                                   bool channels_last) {
  check_built_for("warp_affine_backward", grad);
  const c10::DeviceGuard guard(grad.device());
  return launch(ZF_CUDA_KERNEL(warp_affine_backward),
                prepare_warp_affine_backward(grad, matrices, channels_last));
}

void register_ops(torch::Library& m) {
  m.impl("warp_affine", warp_affine_op);
  m.impl("warp_affine_backward", warp_affine_backward_op);
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  register_ops(m);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  register_ops(m);
}

}  // namespace zfcuda::cuda
