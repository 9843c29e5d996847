#include "cuda/occlude.h"

#include "cuda/glue.h"

namespace zfcuda::cuda {

int occlude_on_host(const OccludeParams& p) {
  return run_occlude(p, HostLaunch{});
}

namespace {

at::Tensor occlude_op(const at::Tensor& x, const at::Tensor& boxes, const at::Tensor& fill) {
  check_built_for("occlude", x);
  const c10::DeviceGuard guard(x.device());
  return launch(ZF_CUDA_KERNEL(occlude), prepare_occlude(x, boxes, fill));
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("occlude", occlude_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("occlude", occlude_op);
}

}  // namespace zfcuda::cuda
