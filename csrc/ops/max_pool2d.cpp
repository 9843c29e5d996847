#include "ops/pooling.h"

namespace zfcuda {
namespace {

std::tuple<Tensor, Tensor> max_pool2d(const Tensor& x, Ints kernel_size, Ints stride, Ints padding,
                                      Ints dilation, bool ceil_mode, bool relu) {
  constexpr const char* op = "max_pool2d";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  const PoolWindow w = checked_window(op, {kernel_size, stride, padding, dilation});
  const std::array<int64_t, 2> in{x.size(2), x.size(3)};
  const std::array<int64_t, 2> out{
      pooled_size(in[0], w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, ceil_mode),
      pooled_size(in[1], w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, ceil_mode)};
  ZF_CHECK(in[0] > 0 && in[1] > 0 && out[0] > 0 && out[1] > 0, op, ": x of size ", text(in),
           " is too small for kernel_size ", text(kernel_size), " with padding ", text(padding),
           " and dilation ", text(dilation));

  const bool channels_last = is_channels_last(x);
  const std::array<int64_t, 4> shape{x.size(0), x.size(1), out[0], out[1]};
  const Tensor y = empty(x, shape, dtype_of(x), channels_last),
               switches = empty(x, shape, switch_dtype(w), channels_last),
               input = dense(x, channels_last);
  const MaxPoolParams params{
      .shape = pool_shape(x, in, out, w, dtype, channels_last),
      .x = input.const_data_ptr(),
      .y = y.mutable_data_ptr(),
      .switches = switches.mutable_data_ptr(),
      .relu = relu,
  };
  if (y.numel() > 0) ZF_RUN(max_pool2d, y, params);
  return {y, switches};
}

Tensor max_pool2d_backward(const Tensor& grad, const Tensor& switches,
                           const std::optional<Tensor>& y, Ints kernel_size, Ints stride,
                           Ints padding, Ints dilation, Ints input_size) {
  // The layout is the forward pass's, which the switches kept; a gradient may arrive expanded.
  const auto [params, out, operands] =
      unpooling("max_pool2d_backward", grad, switches, y, {kernel_size, stride, padding, dilation},
                input_size, is_channels_last(switches));
  if (out.numel() > 0) ZF_RUN(max_unpool2d, out, params);
  return out;
}

ZF_OP(max_pool2d,
      "(Tensor x, " ZF_POOL_WINDOW ", bool ceil_mode, bool relu) -> (Tensor y, Tensor switches)")
ZF_OP(max_pool2d_backward, "(Tensor grad, Tensor switches, Tensor? y, " ZF_POOL_WINDOW
                           ", SymInt[2] input_size) -> Tensor")

}  // namespace
}  // namespace zfcuda
