#include "common/checks.h"
#include "common/prepare.h"

namespace zfcuda {
namespace {

// [N, copies, C, H, W] whose images are each in `layout`.
at::Tensor empty_copies(const at::Tensor& x, int64_t batch, int64_t copies, at::IntArrayRef image,
                        at::MemoryFormat layout) {
  const std::array<int64_t, 4> flat{batch * copies, image[0], image[1], image[2]};
  const std::array<int64_t, 2> leading{batch, copies};
  return empty_like_device(x, flat, x.scalar_type(), layout).unflatten(0, leading);
}

void check_overflow(const char* op, const at::Tensor& x, int64_t copies) {
  int64_t elements = 0;
  TORCH_CHECK_VALUE(!__builtin_mul_overflow(x.numel(), copies * x.element_size(), &elements), op,
                    ": ", copies, " copies of a tensor of shape ", x.sizes(),
                    " overflow 2^63 bytes");
}

void check_axes(const char* op, const at::Tensor& x) {
  TORCH_CHECK_VALUE(x.size(2) < (int64_t{1} << 30) && x.size(3) < (int64_t{1} << 30), op,
                    ": height and width must be below 2^30, got ", x.sizes());
}

void check_matrices(const char* op, const at::Tensor& matrices, const at::Tensor& x) {
  TORCH_CHECK_VALUE(matrices.dim() == 3 && matrices.size(1) == 2 && matrices.size(2) == 3, op,
                    ": matrices must be [M,2,3], got shape ", matrices.sizes());
  TORCH_CHECK_TYPE(matrices.scalar_type() == at::kDouble, op, ": matrices must be float64, got ",
                   matrices.scalar_type());
  check_device(op, "matrices", matrices, x);
}

}  // namespace

Call<OccludeParams> prepare_occlude(const at::Tensor& x, const at::Tensor& boxes,
                                    const at::Tensor& fill) {
  constexpr const char* op = "occlude";
  checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  check_axes(op, x);
  TORCH_CHECK_VALUE(boxes.dim() == 2 && boxes.size(1) == 4, op,
                    ": boxes must be [P,4] of (y0, x0, y1, x1), got shape ", boxes.sizes());
  TORCH_CHECK_TYPE(boxes.scalar_type() == at::kLong, op, ": boxes must be int64, got ",
                   boxes.scalar_type());
  TORCH_CHECK_TYPE(fill.scalar_type() == x.scalar_type(), op, ": fill must have x's dtype ",
                   x.scalar_type(), ", got ", fill.scalar_type());
  check_device(op, "boxes", boxes, x);
  check_device(op, "fill", fill, x);
  const at::IntArrayRef image = x.sizes().slice(1);
  const bool fill_is_image = fill.sizes() == image;
  TORCH_CHECK_VALUE(fill_is_image || fill.sizes() == image.slice(0, 1), op,
                    ": fill must have shape ", image.slice(0, 1), " or ", image, ", got ",
                    fill.sizes());
  check_overflow(op, x, boxes.size(0));

  const at::MemoryFormat layout = layout_of(x);
  Call<OccludeParams> call;
  call.out = empty_copies(x, x.size(0), boxes.size(0), image, layout);
  call.operands = {x.contiguous(layout), boxes.contiguous(),
                   fill_is_image ? fill.unsqueeze(0).contiguous(layout) : fill.contiguous()};
  call.params = {call.operands[0].const_data_ptr(),
                 call.operands[1].const_data_ptr<int64_t>(),
                 call.operands[2].const_data_ptr(),
                 call.out.mutable_data_ptr(),
                 x.size(0),
                 boxes.size(0),
                 x.size(1),
                 x.size(2),
                 x.size(3),
                 static_cast<int>(x.element_size()),
                 fill_is_image,
                 layout == at::MemoryFormat::ChannelsLast};
  return call;
}

Call<WarpParams> prepare_warp_affine(const at::Tensor& x, const at::Tensor& matrices,
                                     const at::Tensor& fill) {
  constexpr const char* op = "warp_affine";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  check_axes(op, x);
  check_matrices(op, matrices, x);
  TORCH_CHECK_TYPE(fill.scalar_type() == x.scalar_type(), op, ": fill must have x's dtype ",
                   x.scalar_type(), ", got ", fill.scalar_type());
  check_shape(op, "fill", fill, x.sizes().slice(1, 1));
  check_device(op, "fill", fill, x);
  check_overflow(op, x, matrices.size(0));

  const at::MemoryFormat layout = layout_of(x);
  Call<WarpParams> call;
  call.out = empty_copies(x, x.size(0), matrices.size(0), x.sizes().slice(1), layout);
  call.operands = {x.contiguous(layout), matrices.contiguous(), fill.contiguous()};
  call.params = {call.operands[0].const_data_ptr(),
                 call.operands[1].const_data_ptr<double>(),
                 call.operands[2].const_data_ptr(),
                 call.out.mutable_data_ptr(),
                 x.size(0),
                 matrices.size(0),
                 x.size(1),
                 x.size(2),
                 x.size(3),
                 dtype,
                 layout == at::MemoryFormat::ChannelsLast};
  return call;
}

Call<WarpParams> prepare_warp_affine_backward(const at::Tensor& grad, const at::Tensor& matrices,
                                              bool channels_last) {
  constexpr const char* op = "warp_affine_backward";
  const DType dtype = checked_dtype(op, "grad", grad);
  check_rank(op, "grad", grad, 5, "[N,M,C,H,W]");
  check_matrices(op, matrices, grad);
  TORCH_CHECK_VALUE(matrices.size(0) == grad.size(1), op, ": ", matrices.size(0),
                    " matrices for a grad of shape ", grad.sizes());

  const auto layout = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  Call<WarpParams> call;
  const std::array<int64_t, 4> shape{grad.size(0), grad.size(2), grad.size(3), grad.size(4)};
  call.out = empty_like_device(grad, shape, grad.scalar_type(), layout);
  call.operands = {grad.flatten(0, 1).contiguous(layout), matrices.contiguous()};
  call.params = {call.operands[0].const_data_ptr(),
                 call.operands[1].const_data_ptr<double>(),
                 nullptr,
                 call.out.mutable_data_ptr(),
                 grad.size(0),
                 grad.size(1),
                 grad.size(2),
                 grad.size(3),
                 grad.size(4),
                 dtype,
                 channels_last};
  return call;
}

}  // namespace zfcuda
