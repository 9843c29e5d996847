#include "ops/images.h"

namespace zfcuda {
namespace {

Tensor occlude(const Tensor& x, const Tensor& boxes, const Tensor& fill) {
  constexpr const char* op = "occlude";
  checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  check_axes(op, x);
  ZF_CHECK(boxes.dim() == 2 && boxes.size(1) == 4, op,
           ": boxes must be [P,4] of (y0, x0, y1, x1), got shape ", text(boxes.sizes()));
  ZF_CHECK_TYPE(dtype_of(boxes) == ScalarType::Long, op, ": boxes must be int64, got ",
                dtype_of(boxes));
  check_fill_dtype(op, fill, x);
  check_device(op, "boxes", boxes, x);
  check_device(op, "fill", fill, x);
  const Ints image = x.sizes().slice(1), channels = image.slice(0, 1);
  const bool fill_is_image = fill.sizes().equals(image);
  ZF_CHECK(fill_is_image || fill.sizes().equals(channels), op, ": fill must have shape ",
           text(channels), " or ", text(image), ", got ", text(fill.sizes()));
  check_overflow(op, x, boxes.size(0));

  const bool channels_last = is_channels_last(x);
  const Tensor out = empty_copies(x, boxes.size(0), channels_last), input = dense(x, channels_last),
               table = dense(boxes),
               value = fill_is_image ? dense(torch::stable::unsqueeze(fill, 0), channels_last)
                                     : dense(fill);
  const OccludeParams params{
      .x = input.const_data_ptr(),
      .boxes = table.const_data_ptr<int64_t>(),
      .fill = value.const_data_ptr(),
      .out = out.mutable_data_ptr(),
      .batch = x.size(0),
      .positions = boxes.size(0),
      .channels = x.size(1),
      .height = x.size(2),
      .width = x.size(3),
      .element_size = static_cast<int>(x.element_size()),
      .fill_is_image = fill_is_image,
      .channels_last = channels_last,
  };
  if (out.numel() > 0) ZF_RUN(occlude, out, params);
  return out;
}

ZF_OP(occlude, "(Tensor x, Tensor boxes, Tensor fill) -> Tensor")

}  // namespace
}  // namespace zfcuda
