#pragma once

#include "stable.h"

// What the ops that make several copies of an image share.

namespace zfcuda {

inline void check_axes(const char* op, const Tensor& x) {
  ZF_CHECK(x.size(2) < (int64_t{1} << 30) && x.size(3) < (int64_t{1} << 30), op,
           ": height and width must be below 2^30, got ", text(x.sizes()));
}

inline void check_overflow(const char* op, const Tensor& x, int64_t copies) {
  int64_t bytes = 0;
  const auto element = static_cast<int64_t>(x.element_size());
  ZF_CHECK(!__builtin_mul_overflow(x.numel(), copies * element, &bytes), op, ": ", copies,
           " copies of a tensor of shape ", text(x.sizes()), " overflow 2^63 bytes");
}

inline void check_fill_dtype(const char* op, const Tensor& fill, const Tensor& x) {
  ZF_CHECK_TYPE(dtype_of(fill) == dtype_of(x), op, ": fill must have x's dtype ", dtype_of(x),
                ", got ", dtype_of(fill));
}

}  // namespace zfcuda
