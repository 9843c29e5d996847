#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/check.h"
#include "core/kernels.h"
#include "stream.h"
#include "zfcuda_build_facts.h"

// What an op needs of torch beyond its stable ABI: layouts, memory, checks with their sentences,
// and how an op is registered and run. Built against one torch, the library runs under any
// from 2.11 on.

#if TORCH_FEATURE_VERSION != TORCH_VERSION_2_11_0
#error "TORCH_TARGET_VERSION must name torch 2.11, the oldest one that the library runs under"
#endif

// What torch said when it last failed in this thread; not there before torch 2.13.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace zfcuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = torch::headeronly::IntHeaderOnlyArrayRef;

// --- sentences -----------------------------------------------------------------------------------

inline std::string text(Ints values) {
  std::string list;
  for (const int64_t value : values) list += (list.empty() ? "" : ", ") + std::to_string(value);
  return "[" + list + "]";
}

inline std::string text(const torch::stable::Device& device) {
  if (device.is_cpu()) return "cpu";
  const std::string type =
      device.is_cuda() ? "cuda" : sentence("device type ", static_cast<int>(device.type()));
  return type + ":" + std::to_string(device.index());
}

// A call of torch's failed: as RuntimeError, with its own words where they are to be had. Where
// not, one that takes memory of a GPU is said to have found none, in torch's words for it, which
// zfcuda/ops/library.py looks for.
[[noreturn]] inline void failed(const std::string& what, bool takes_gpu_memory = false) {
  if (torch_exception_get_what_without_backtrace != nullptr) {
    throw std::runtime_error(
        sentence("zfcuda: ", what, " failed: ", torch_exception_get_what_without_backtrace()));
  }
  throw std::runtime_error(
      sentence("zfcuda: ", takes_gpu_memory ? "CUDA out of memory: " : "", what, " failed"));
}

// What `call` makes of `tensor`, by an op of torch's.
template <class F>
Tensor made_of(const char* verb, const Tensor& tensor, const F& call) {
  try {
    return call(tensor);
  } catch (const std::runtime_error&) {
    failed(sentence(verb, " a tensor of shape ", text(tensor.sizes())), tensor.is_cuda());
  }
}

// --- checks --------------------------------------------------------------------------------------

// Also a dtype that the stable ABI has no name for, as those of fewer bits than a byte, and that of
// None: its own function fails there.
inline ScalarType dtype_of(const Tensor& tensor) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  return static_cast<ScalarType>(code);
}

inline DType checked_dtype(const char* op, const char* name, const Tensor& tensor) {
  switch (dtype_of(tensor)) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::Half:
      return DType::float16;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    default:
      ZF_CHECK_TYPE(false, op, ": ", name, " must be float32, float64, float16 or bfloat16, got ",
                    dtype_of(tensor));
  }
  __builtin_unreachable();
}

inline void check_rank(const char* op, const char* name, const Tensor& tensor, int64_t rank,
                       const char* layout) {
  ZF_CHECK(tensor.dim() == rank, op, ": ", name, " must be ", layout, ", got shape ",
           text(tensor.sizes()));
}

inline void check_device(const char* op, const char* name, const Tensor& tensor,
                         const Tensor& like) {
  ZF_CHECK(tensor.device() == like.device(), op, ": ", name, " is on ", text(tensor.device()),
           ", expected ", text(like.device()));
}

inline void check_shape(const char* op, const char* name, const Tensor& tensor, Ints shape) {
  ZF_CHECK(tensor.sizes().equals(shape), op, ": ", name, " must have shape ", text(shape), ", got ",
           text(tensor.sizes()));
}

// --- layouts and memory --------------------------------------------------------------------------

// The strides of images [..., C,H,W], each dense: contiguous or channels_last.
template <size_t rank>
std::array<int64_t, rank> dense_strides(const std::array<int64_t, rank>& shape,
                                        bool channels_last) {
  std::array<int64_t, rank> order{}, strides{};  // `order`: from the innermost dimension outwards
  for (size_t i = 0; i < rank; ++i) order[i] = static_cast<int64_t>(rank - 1 - i);
  if constexpr (rank >= 4) {
    if (channels_last) order[0] = rank - 3, order[1] = rank - 1, order[2] = rank - 2;
  }
  int64_t step = 1;
  for (const int64_t dimension : order) {
    strides[dimension] = step;
    step *= shape[dimension] > 1 ? shape[dimension] : 1;
  }
  return strides;
}

// Whether [N,C,H,W] lies dense in channels_last; the stride of a dimension of one says nothing.
inline bool is_dense_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4) return false;
  const Ints sizes = tensor.sizes(), strides = tensor.strides();
  int64_t expected = 1;
  for (const int dimension : {1, 3, 2, 0}) {
    if (sizes[dimension] == 1) continue;
    if (strides[dimension] != expected) return false;
    expected *= sizes[dimension];
  }
  return true;
}

// The layout that the result of an op on `tensor` takes: channels_last if the tensor is that and
// not also contiguous.
inline bool is_channels_last(const Tensor& tensor) {
  return !tensor.is_contiguous() && is_dense_channels_last(tensor);
}

// `tensor` itself where it lies so, else a copy.
inline Tensor dense(const Tensor& tensor, bool channels_last = false) {
  if (channels_last ? is_dense_channels_last(tensor) : tensor.is_contiguous()) return tensor;
  return made_of("copying", tensor, [&](const Tensor& all) {
    return torch::stable::contiguous(all, channels_last
                                              ? torch::headeronly::MemoryFormat::ChannelsLast
                                              : torch::headeronly::MemoryFormat::Contiguous);
  });
}

// The same in `dtype`.
inline Tensor dense_as(ScalarType dtype, const Tensor& tensor, bool channels_last) {
  if (dtype_of(tensor) == dtype) return dense(tensor, channels_last);
  return dense(made_of("converting", tensor,
                       [&](const Tensor& all) { return torch::stable::to(all, dtype); }),
               channels_last);
}

// Memory on `like`'s device.
template <size_t rank>
Tensor empty(const Tensor& like, const std::array<int64_t, rank>& shape, ScalarType dtype,
             bool channels_last = false) {
  const auto strides = dense_strides(shape, channels_last);
  const torch::stable::Device device = like.device();
  int32_t type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  AtenTensorHandle handle = nullptr;
  const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  if (aoti_torch_empty_strided(rank, shape.data(), strides.data(), code, type, device.index(),
                               &handle) != TORCH_SUCCESS) {
    failed(sentence("allocating a tensor of shape ", text(Ints(shape.data(), rank)), " on ",
                    text(device)),
           device.is_cuda());
  }
  return Tensor(handle);
}

// [N,copies,C,H,W] of [N,C,H,W], each image in its layout.
inline Tensor empty_copies(const Tensor& x, int64_t copies, bool channels_last) {
  const std::array<int64_t, 5> shape{x.size(0), copies, x.size(1), x.size(2), x.size(3)};
  return empty(x, shape, dtype_of(x), channels_last);
}

// --- running and registering ---------------------------------------------------------------------

inline void check_launch(const char* kernel, int status) {
  if (status == 0) return;
  throw std::runtime_error(
      sentence("zfcuda: launching ", kernel, " failed with cudaError_t ", status));
}

#if defined(ZFCUDA_HOST_COPIES)

// The tests' library: the same ops for CPU tensors, run by the bodies of the CUDA kernels.
#define ZF_NAMESPACE zfcuda_host
#define ZF_RUN(kernel, out, params) \
  ::zfcuda::check_launch(#kernel, ::zfcuda::cuda::kernel(params, nullptr))
inline bool on_gpu(const Tensor&) {
  return true;
}

#else

#define ZF_NAMESPACE zfcuda
#if ZFCUDA_WITH_CUDA
#define ZF_RUN(kernel, out, params) \
  ::zfcuda::run(#kernel, out, params, &::zfcuda::cpu::kernel, &::zfcuda::cuda::kernel)
#else
#define ZF_RUN(kernel, out, params) \
  ::zfcuda::run(#kernel, out, params, &::zfcuda::cpu::kernel, nullptr)
#endif
inline bool on_gpu(const Tensor& tensor) {
  return tensor.is_cuda();
}

#endif

inline cuda::Stream current_stream(int32_t device) {
  void* stream = nullptr;
  if (!ask_for_stream(device, &stream)) failed("asking for the current CUDA stream");
  return stream;
}

template <class Params>
using OnCpu = void (*)(const Params&);
template <class Params>
using OnCuda = int (*)(const Params&, cuda::Stream);

// Runs a kernel where `out` is, on a GPU on its current stream.
template <class Params>
void run(const char* kernel, const Tensor& out, const Params& params, OnCpu<Params> on_cpu,
         std::type_identity_t<OnCuda<Params>> on_cuda) {
  if (!out.is_cuda()) return on_cpu(params);
  if (on_cuda == nullptr) {
    throw std::runtime_error(
        sentence(kernel, " was given a ", text(out.device()),
                 " tensor, but this build of zfcuda has no CUDA kernels: " ZFCUDA_CUDA_VERDICT));
  }
  const int32_t device = out.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  check_launch(kernel, on_cuda(params, current_stream(device)));
}

// Defines an op and registers `function` for it on every device: ZF_OP(name, "(…) -> …").
#define ZF_OP(function, signature)                   \
  STABLE_TORCH_LIBRARY_FRAGMENT(ZF_NAMESPACE, m) {   \
    m.def(#function signature);                      \
  }                                                  \
  STABLE_TORCH_LIBRARY_IMPL(ZF_NAMESPACE, CPU, m) {  \
    m.impl(#function, TORCH_BOX(&function));         \
  }                                                  \
  STABLE_TORCH_LIBRARY_IMPL(ZF_NAMESPACE, CUDA, m) { \
    m.impl(#function, TORCH_BOX(&function));         \
  }

}  // namespace zfcuda
