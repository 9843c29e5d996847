#include <algorithm>

#include "stable.h"

namespace zfcuda {
namespace {

// With a gradient the backward pass.
Tensor normalised(const Tensor& x, const std::optional<Tensor>& grad, int64_t size, double alpha,
                  double beta, double k) {
  constexpr const char* op = "local_response_norm";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  ZF_CHECK(size >= 1, op, ": size must be at least 1, got ", size);
  if (grad) {
    check_shape(op, "grad", *grad, x.sizes());
    check_device(op, "grad", *grad, x);
  }

  // Beyond both ends of the channels there is nothing to sum: a larger window is this one.
  const int64_t widest = 2 * x.size(1) + size % 2;
  const bool channels_last = is_channels_last(x);
  const std::array<int64_t, 4> shape{x.size(0), x.size(1), x.size(2), x.size(3)};
  const Tensor out = empty(x, shape, dtype_of(x), channels_last), input = dense(x, channels_last),
               gradient = grad ? dense_as(dtype_of(x), *grad, channels_last) : x;
  const LrnParams params{
      .x = input.const_data_ptr(),
      .grad = grad ? gradient.const_data_ptr() : nullptr,
      .out = out.mutable_data_ptr(),
      .batch = x.size(0),
      .channels = x.size(1),
      .spatial = x.size(2) * x.size(3),
      .size = std::min(size, std::max<int64_t>(widest, 1)),
      .alpha = alpha / static_cast<double>(size),
      .beta = beta,
      .k = k,
      .dtype = dtype,
      .channels_last = channels_last,
  };
  if (out.numel() > 0) ZF_RUN(local_response_norm, out, params);
  return out;
}

Tensor local_response_norm(const Tensor& x, int64_t size, double alpha, double beta, double k) {
  return normalised(x, std::nullopt, size, alpha, beta, k);
}

Tensor local_response_norm_backward(const Tensor& grad, const Tensor& x, int64_t size, double alpha,
                                    double beta, double k) {
  return normalised(x, grad, size, alpha, beta, k);
}

ZF_OP(local_response_norm, "(Tensor x, int size, float alpha, float beta, float k) -> Tensor")
ZF_OP(local_response_norm_backward,
      "(Tensor grad, Tensor x, int size, float alpha, float beta, float k) -> Tensor")

}  // namespace
}  // namespace zfcuda
