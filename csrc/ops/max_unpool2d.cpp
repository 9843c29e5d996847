#include "core/switches.h"
#include "ops/pooling.h"

namespace zfcuda {
namespace {

Tensor max_unpool2d(const Tensor& y, const Tensor& switches, Ints kernel_size, Ints stride,
                    Ints padding, Ints dilation, Ints output_size, bool relu, bool overwrite,
                    bool check) {
  auto [params, out, operands] =
      unpooling("max_unpool2d", y, switches, std::nullopt, {kernel_size, stride, padding, dilation},
                output_size, is_channels_last(y));
  params.relu = relu;
  params.overwrite = overwrite;
  params.check = true;  // the CPU kernel always does
  if (check && on_gpu(y)) {
    const Tensor on_host = made_of("checking", operands[1], [](const Tensor& all) {
      return torch::stable::to(all, torch::stable::Device(torch::headeronly::DeviceType::CPU));
    });
    check_switches(params.shape, on_host.const_data_ptr());
  }
  if (out.numel() > 0) ZF_RUN(max_unpool2d, out, params);
  return out;
}

// The transpose: every window fetches the gradient at its switch. `out`, with a fused ReLU: what
// was unpooled.
Tensor max_unpool2d_backward(const Tensor& grad, const Tensor& switches,
                             const std::optional<Tensor>& out, Ints kernel_size, Ints stride,
                             Ints padding, Ints dilation, bool overwrite) {
  constexpr const char* op = "max_unpool2d_backward";
  const PoolArguments arguments{kernel_size, stride, padding, dilation};
  const DType dtype = checked_dtype(op, "grad", grad);
  check_rank(op, "grad", grad, 4, "[N,C,H,W]");
  check_rank(op, "switches", switches, 4, "[N,C,OH,OW]");
  const PoolWindow window = checked_window(op, arguments);
  const std::array<int64_t, 4> shape{grad.size(0), grad.size(1), switches.size(2),
                                     switches.size(3)};
  check_switches_of(op, switches, window, grad, shape);
  const Ints in = grad.sizes().slice(2), pooled = switches.sizes().slice(2);
  check_pooled_from(op, in, pooled, window, arguments);
  if (out) {
    check_shape(op, "out", *out, grad.sizes());
    check_device(op, "out", *out, grad);
  }

  const bool channels_last = is_channels_last(switches);
  const Tensor grad_y = empty(grad, shape, dtype_of(grad), channels_last),
               input = dense(grad, channels_last), taps = dense(switches, channels_last),
               gate = out ? dense_as(dtype_of(grad), *out, channels_last) : grad;
  const MaxUnpoolBackwardParams params{
      .shape = pool_shape(grad, in, pooled, window, dtype, channels_last),
      .grad = input.const_data_ptr(),
      .switches = taps.const_data_ptr(),
      .gate = out ? gate.const_data_ptr() : nullptr,
      .grad_y = grad_y.mutable_data_ptr(),
      .overwrite = overwrite,
  };
  if (grad_y.numel() > 0) ZF_RUN(max_unpool2d_backward, grad_y, params);
  return grad_y;
}

ZF_OP(max_unpool2d, "(Tensor y, Tensor switches, " ZF_POOL_WINDOW
                    ", SymInt[2] output_size, bool relu, bool overwrite, bool check) -> Tensor")
ZF_OP(max_unpool2d_backward,
      "(Tensor grad, Tensor switches, Tensor? out, " ZF_POOL_WINDOW ", bool overwrite) -> Tensor")

}  // namespace
}  // namespace zfcuda
