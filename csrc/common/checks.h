#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "common/params.h"

// The checks and allocations that several ops share.

namespace zfcuda {

inline DType checked_dtype(const char* op, const char* name, const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::float32;
    case at::kDouble:
      return DType::float64;
    case at::kHalf:
      return DType::float16;
    case at::kBFloat16:
      return DType::bfloat16;
    default:
      TORCH_CHECK_TYPE(false, op, ": ", name,
                       " must be float32, float64, float16 or bfloat16, got ",
                       tensor.scalar_type());
  }
}

inline void check_rank(const char* op, const char* name, const at::Tensor& tensor, int64_t rank,
                       const char* layout) {
  TORCH_CHECK_VALUE(tensor.dim() == rank, op, ": ", name, " must be ", layout, ", got shape ",
                    tensor.sizes());
}

inline void check_device(const char* op, const char* name, const at::Tensor& tensor,
                         const at::Tensor& like) {
  TORCH_CHECK_VALUE(tensor.device() == like.device(), op, ": ", name, " is on ", tensor.device(),
                    ", expected ", like.device());
}

inline void check_shape(const char* op, const char* name, const at::Tensor& tensor,
                        at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape, op, ": ", name, " must have shape ", shape, ", got ",
                    tensor.sizes());
}

// The layout the result of an op on `tensor` takes: channels_last if the tensor is that and not
// also contiguous.
inline at::MemoryFormat layout_of(const at::Tensor& tensor) {
  return !tensor.is_contiguous() && tensor.is_contiguous(at::MemoryFormat::ChannelsLast)
             ? at::MemoryFormat::ChannelsLast
             : at::MemoryFormat::Contiguous;
}

inline at::Tensor empty_like_device(const at::Tensor& like, at::IntArrayRef shape,
                                    at::ScalarType dtype, at::MemoryFormat layout) {
  return at::empty(shape, like.options().dtype(dtype), layout);
}

}  // namespace zfcuda
