#include "cuda/local_response_norm.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int local_response_norm_on_host(const LrnParams& p) {
  return run_local_response_norm(p, HostLaunch{});
}

namespace {

at::Tensor local_response_norm_op(const at::Tensor& x, int64_t size, double alpha, double beta,
                                  double k) {
  check_built_for("local_response_norm", x);
  const c10::DeviceGuard guard(x.device());
  return launch(ZF_CUDA_KERNEL(local_response_norm),
                prepare_lrn(x, std::nullopt, size, alpha, beta, k));
}

at::Tensor local_response_norm_backward_op(const at::Tensor& grad, const at::Tensor& x,
                                           int64_t size, double alpha, double beta, double k) {
  check_built_for("local_response_norm_backward", x);
  const c10::DeviceGuard guard(x.device());
  return launch(ZF_CUDA_KERNEL(local_response_norm), prepare_lrn(x, grad, size, alpha, beta, k));
}

void register_ops(torch::Library& m) {
  m.impl("local_response_norm", local_response_norm_op);
  m.impl("local_response_norm_backward", local_response_norm_backward_op);
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  register_ops(m);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  register_ops(m);
}

}  // namespace zfcuda::cuda
