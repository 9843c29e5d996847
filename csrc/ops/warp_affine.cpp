#include "ops/images.h"

namespace zfcuda {
namespace {

void check_matrices(const char* op, const Tensor& matrices, const Tensor& x) {
  ZF_CHECK(matrices.dim() == 3 && matrices.size(1) == 2 && matrices.size(2) == 3, op,
           ": matrices must be [M,2,3], got shape ", text(matrices.sizes()));
  ZF_CHECK_TYPE(dtype_of(matrices) == ScalarType::Double, op, ": matrices must be float64, got ",
                dtype_of(matrices));
  check_device(op, "matrices", matrices, x);
}

Tensor warp_affine(const Tensor& x, const Tensor& matrices, const Tensor& fill) {
  constexpr const char* op = "warp_affine";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  check_axes(op, x);
  check_matrices(op, matrices, x);
  check_fill_dtype(op, fill, x);
  check_shape(op, "fill", fill, x.sizes().slice(1, 1));
  check_device(op, "fill", fill, x);
  check_overflow(op, x, matrices.size(0));

  const bool channels_last = is_channels_last(x);
  const Tensor out = empty_copies(x, matrices.size(0), channels_last),
               input = dense(x, channels_last), maps = dense(matrices), value = dense(fill);
  const WarpParams params{
      .x = input.const_data_ptr(),
      .matrices = maps.const_data_ptr<double>(),
      .fill = value.const_data_ptr(),
      .out = out.mutable_data_ptr(),
      .batch = x.size(0),
      .maps = matrices.size(0),
      .channels = x.size(1),
      .height = x.size(2),
      .width = x.size(3),
      .dtype = dtype,
      .channels_last = channels_last,
  };
  if (out.numel() > 0) ZF_RUN(warp_affine, out, params);
  return out;
}

Tensor warp_affine_backward(const Tensor& grad, const Tensor& matrices, bool channels_last) {
  constexpr const char* op = "warp_affine_backward";
  const DType dtype = checked_dtype(op, "grad", grad);
  check_rank(op, "grad", grad, 5, "[N,M,C,H,W]");
  check_matrices(op, matrices, grad);
  ZF_CHECK(matrices.size(0) == grad.size(1), op, ": ", matrices.size(0),
           " matrices for a grad of shape ", text(grad.sizes()));

  const std::array<int64_t, 4> shape{grad.size(0), grad.size(2), grad.size(3), grad.size(4)};
  const Tensor out = empty(grad, shape, dtype_of(grad), channels_last),
               input = dense(
                   made_of("copying", grad,
                           [](const Tensor& all) { return torch::stable::flatten(all, 0, 1); }),
                   channels_last),
               maps = dense(matrices);
  const WarpParams params{
      .x = input.const_data_ptr(),
      .matrices = maps.const_data_ptr<double>(),
      .fill = nullptr,
      .out = out.mutable_data_ptr(),
      .batch = grad.size(0),
      .maps = grad.size(1),
      .channels = grad.size(2),
      .height = grad.size(3),
      .width = grad.size(4),
      .dtype = dtype,
      .channels_last = channels_last,
  };
  if (out.numel() > 0) ZF_RUN(warp_affine_backward, out, params);
  return out;
}

ZF_OP(warp_affine, "(Tensor x, Tensor matrices, Tensor fill) -> Tensor")
ZF_OP(warp_affine_backward, "(Tensor grad, Tensor matrices, bool channels_last) -> Tensor")

}  // namespace
}  // namespace zfcuda
