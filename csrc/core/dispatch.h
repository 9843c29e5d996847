#pragma once

#include <type_traits>

#include "core/kernels.h"
#include "core/scalar.h"

// From a value that is known when a kernel is called to a type that it is compiled for. Each calls
// f with a value of the type and returns what f returns.

namespace zfcuda {

template <class F>
auto with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float{});
    case DType::float64:
      return f(double{});
    case DType::float16:
      return f(c10::Half{});
    default:
      return f(c10::BFloat16{});
  }
}

template <class F>
auto with_switch_type(bool wide, F&& f) {
  return wide ? f(int32_t{}) : f(uint8_t{});
}

// `small`: every index fits int32.
template <class F>
auto with_index(bool small, F&& f) {
  return small ? f(int32_t{}) : f(int64_t{});
}

// The side of pooling windows K x K at stride 2 without dilation, which kernels unroll; 0 for any
// other. Their switches are bytes.
template <class F>
auto with_kernel_size(const PoolWindow& w, F&& f) {
  const bool halves = w.stride_h == 2 && w.stride_w == 2 && w.dilation_h == 1 && w.dilation_w == 1;
  if (halves && w.kernel_h == 3 && w.kernel_w == 3) return f(std::integral_constant<int, 3>{});
  if (halves && w.kernel_h == 2 && w.kernel_w == 2) return f(std::integral_constant<int, 2>{});
  return f(std::integral_constant<int, 0>{});
}

}  // namespace zfcuda
