#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include "common/prepare.h"
#include "common/stream.h"
#include "cuda/kernels.h"
#include "zfcuda_build_facts.h"

// From a prepared call to a launch. Only device-generic torch headers, so that this compiles and
// links against a CPU torch too; see docs/architecture.md.

namespace zfcuda::cuda {

template <class Params>
using OnDevice = int (*)(const Params&, Stream);
template <class Params>
using OnHost = int (*)(const Params&);

template <class Params>
struct Kernel {
  const char* name;
  OnDevice<Params> on_device;
  OnHost<Params> on_host;
};

#if ZFCUDA_WITH_CUDA
#define ZF_CUDA_KERNEL(name)                                      \
  ::zfcuda::cuda::Kernel {                                        \
    #name, &::zfcuda::cuda::name, &::zfcuda::cuda::name##_on_host \
  }
#else
#define ZF_CUDA_KERNEL(name) ::zfcuda::cuda::host_only(#name, &::zfcuda::cuda::name##_on_host)
template <class Params>
Kernel<Params> host_only(const char* name, OnHost<Params> on_host) {
  return {name, nullptr, on_host};
}
#endif

// The gate of every op of this file's libraries: CPU tensors come here only through
// torch.ops.zfcuda_host.
inline void check_built_for(const char* op, const at::Tensor& x) {
  TORCH_CHECK(ZFCUDA_WITH_CUDA || !x.is_cuda(), op, " was given a ", x.device(),
              " tensor, but this build of zfcuda has no CUDA kernels: " ZFCUDA_CUDA_VERDICT);
}

template <class Params>
at::Tensor launch(const Kernel<Params>& kernel, const Call<Params>& call) {
  if (call.out.numel() == 0) return call.out;
  if (!call.out.is_cuda()) {
    kernel.on_host(call.params);
    return call.out;
  }
  const int status = kernel.on_device(call.params, current_stream(call.out.device()));
  TORCH_CHECK(status == 0, "zfcuda: launching ", kernel.name, " failed with cudaError_t ", status);
  return call.out;
}

}  // namespace zfcuda::cuda
