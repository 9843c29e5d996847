#pragma once

#include <utility>

#include "common/params.h"
#include "core/scalar.h"

namespace zfcuda {

// Calls f with a value of the C++ type that `dtype` names.
template <class F>
void with_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float32:
      return f(float{});
    case DType::float64:
      return f(double{});
    case DType::float16:
      return f(c10::Half{});
    case DType::bfloat16:
      return f(c10::BFloat16{});
  }
}

template <class F>
void with_switch_type(bool wide, F&& f) {
  return wide ? f(int32_t{}) : f(uint8_t{});
}

}  // namespace zfcuda
