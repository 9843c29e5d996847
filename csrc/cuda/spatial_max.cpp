#include "cuda/spatial_max.h"

#include <tuple>

#include "cuda/glue.h"

namespace zfcuda::cuda {

int spatial_max_on_host(const SpatialMaxParams& p) {
  return run_spatial_max(p, HostLaunch{});
}

namespace {

std::tuple<at::Tensor, at::Tensor> spatial_max_op(const at::Tensor& x) {
  check_built_for("spatial_max", x);
  const c10::DeviceGuard guard(x.device());
  const auto call = prepare_spatial_max(x, &pieces_of);
  launch(ZF_CUDA_KERNEL(spatial_max), call);
  return {call.out, call.second_out};
}

}  // namespace

TORCH_LIBRARY_IMPL(zfcuda, CUDA, m) {
  m.impl("spatial_max", spatial_max_op);
}
TORCH_LIBRARY_IMPL(zfcuda_host, CPU, m) {
  m.impl("spatial_max", spatial_max_op);
}

}  // namespace zfcuda::cuda
