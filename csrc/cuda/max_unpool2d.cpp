#include "cuda/max_unpool2d.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int max_unpool2d_on_host(const MaxUnpoolParams& p) {
  return run_max_unpool2d(p, HostLaunch{});
}

int max_unpool2d_backward_on_host(const MaxUnpoolBackwardParams& p) {
  return run_max_unpool2d_backward(p, HostLaunch{});
}

namespace {

at::Tensor max_unpool2d_op(const at::Tensor& y, const at::Tensor& switches,
                           at::IntArrayRef kernel_size, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation,
                           at::IntArrayRef output_size, bool relu, bool overwrite, bool check) {
  check_built_for("max_unpool2d", y);
  const c10::DeviceGuard guard(y.device());
  const auto call = prepare_max_unpool2d(y, switches, {kernel_size, stride, padding, dilation},
                                         output_size, relu, overwrite);
  if (check) check_switches(switches, call.params.shape);
  return launch(ZF_CUDA_KERNEL(max_unpool2d), call);
}

at::Tensor max_pool2d_backward_op(const at::Tensor& grad, const at::Tensor& switches,
                                  const std::optional<at::Tensor>& y, at::IntArrayRef kernel_size,
                                  at::IntArrayRef stride, at::IntArrayRef padding,
                                  at::IntArrayRef dilation, at::IntArrayRef input_size) {
  check_built_for("max_pool2d_backward", grad);
  const c10::DeviceGuard guard(grad.device());
  const auto call = prepare_max_pool2d_backward(
      grad, switches, y, {kernel_size, stride, padding, dilation}, input_size);
  return launch(ZF_CUDA_KERNEL(max_unpool2d), call);
}

at::Tensor max_unpool2d_backward_op(const at::Tensor& grad, const at::Tensor& switches,
                                    const std::optional<at::Tensor>& out,
                                    at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                    at::IntArrayRef padding, at::IntArrayRef dilation,
                                    bool overwrite) {
  check_built_for("max_unpool2d_backward", grad);
  const c10::DeviceGuard guard(grad.device());
  const auto call = prepare_max_unpool2d_backward(
      grad, switches, out, {kernel_size, stride, padding, dilation}, overwrite);
  return launch(ZF_CUDA_KERNEL(max_unpool2d_backward), call);
}

void register_ops(torch::Library& m) {
  m.impl("max_unpool2d", max_unpool2d_op);
  m.impl("max_pool2d_backward", max_pool2d_backward_op);
  m.impl("max_unpool2d_backward", max_unpool2d_backward_op);
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  register_ops(m);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  register_ops(m);
}

}  // namespace zfcuda::cuda
