#include "ops/pooling.h"

namespace zfcuda {

PoolWindow checked_window(const char* op, const PoolArguments& arguments) {
  const auto pair = [&](const char* name, Ints value, int64_t least) {
    ZF_CHECK(value.size() == 2 && value[0] >= least && value[1] >= least, op, ": ", name,
             " must be two ints of at least ", least, ", got ", text(value));
    ZF_CHECK(value[0] < (int64_t{1} << 30) && value[1] < (int64_t{1} << 30), op, ": ", name,
             " must be below 2^30, got ", text(value));
  };
  pair("kernel_size", arguments.kernel_size, 1);
  pair("stride", arguments.stride, 1);
  pair("padding", arguments.padding, 0);
  pair("dilation", arguments.dilation, 1);
  const PoolWindow window{arguments.kernel_size[0], arguments.kernel_size[1], arguments.stride[0],
                          arguments.stride[1],      arguments.padding[0],     arguments.padding[1],
                          arguments.dilation[0],    arguments.dilation[1]};
  ZF_CHECK(window.padding_h <= window.kernel_h / 2 && window.padding_w <= window.kernel_w / 2, op,
           ": padding must be at most half the kernel, got padding ", text(arguments.padding),
           " for kernel_size ", text(arguments.kernel_size));
  ZF_CHECK(window.kernel_h * window.kernel_w < (int64_t{1} << 31), op, ": kernel_size ",
           text(arguments.kernel_size), " has too many taps");
  return window;
}

ScalarType switch_dtype(const PoolWindow& window) {
  constexpr int64_t max_byte_taps = 255;
  return window.kernel_h * window.kernel_w <= max_byte_taps ? ScalarType::Byte : ScalarType::Int;
}

void check_switch_dtype(const char* op, const Tensor& switches, const PoolWindow& window) {
  ZF_CHECK_TYPE(dtype_of(switches) == switch_dtype(window), op, ": switches of a ", window.kernel_h,
                "x", window.kernel_w, " window are ", switch_dtype(window), ", got ",
                dtype_of(switches));
}

void check_switches_of(const char* op, const Tensor& switches, const PoolWindow& window,
                       const Tensor& like, Ints shape) {
  check_switch_dtype(op, switches, window);
  check_shape(op, "switches", switches, shape);
  check_device(op, "switches", switches, like);
}

int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                    bool ceil_mode) {
  const int64_t span = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (span < 0 && !(ceil_mode && span + stride - 1 >= 0)) return 0;
  int64_t out = (span + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  // As in torch: the last window must start inside the input or its left padding.
  if (ceil_mode && (out - 1) * stride >= size + padding) --out;
  return out;
}

void check_pooled_from(const char* op, Ints in, Ints out, const PoolWindow& w,
                       const PoolArguments& arguments) {
  ZF_CHECK(in.size() == 2 && in[0] > 0 && in[1] > 0, op,
           ": the unpooled size must be two positive ints, got ", text(in));
  const auto fits = [](int64_t size, int64_t pooled, int64_t k, int64_t s, int64_t p, int64_t d) {
    return pooled == pooled_size(size, k, s, p, d, false) ||
           pooled == pooled_size(size, k, s, p, d, true);
  };
  ZF_CHECK(fits(in[0], out[0], w.kernel_h, w.stride_h, w.padding_h, w.dilation_h) &&
               fits(in[1], out[1], w.kernel_w, w.stride_w, w.padding_w, w.dilation_w),
           op, ": a pooled size of ", text(out), " does not come from an input of size ", text(in),
           " with kernel_size ", text(arguments.kernel_size), ", stride ", text(arguments.stride),
           ", padding ", text(arguments.padding), ", dilation ", text(arguments.dilation));
}

PoolShape pool_shape(const Tensor& large, Ints in, Ints out, const PoolWindow& window, DType dtype,
                     bool channels_last) {
  return {
      .batch = large.size(0),
      .channels = large.size(1),
      .in_h = in[0],
      .in_w = in[1],
      .out_h = out[0],
      .out_w = out[1],
      .window = window,
      .dtype = dtype,
      .wide_switches = switch_dtype(window) == ScalarType::Int,
      .channels_last = channels_last,
  };
}

Unpooling unpooling(const char* op, const Tensor& y, const Tensor& switches,
                    const std::optional<Tensor>& gate, const PoolArguments& arguments, Ints size,
                    bool channels_last) {
  const DType dtype = checked_dtype(op, "y", y);
  check_rank(op, "y", y, 4, "[N,C,OH,OW]");
  const PoolWindow window = checked_window(op, arguments);
  check_switches_of(op, switches, window, y, y.sizes());
  check_pooled_from(op, size, y.sizes().slice(2), window, arguments);
  if (gate) {
    check_shape(op, "gate", *gate, y.sizes());
    check_device(op, "gate", *gate, y);
  }

  const std::array<int64_t, 4> shape{y.size(0), y.size(1), size[0], size[1]};
  Unpooling call{.params = {},
                 .out = empty(y, shape, dtype_of(y), channels_last),
                 .operands = {dense(y, channels_last), dense(switches, channels_last),
                              gate ? dense_as(dtype_of(y), *gate, channels_last) : y}};
  call.params = {
      .shape = pool_shape(y, size, y.sizes().slice(2), window, dtype, channels_last),
      .y = call.operands[0].const_data_ptr(),
      .switches = call.operands[1].const_data_ptr(),
      .gate = gate ? call.operands[2].const_data_ptr() : nullptr,
      .x = call.out.mutable_data_ptr(),
      .relu = false,
      .overwrite = false,
      .check = false,
  };
  return call;
}

}  // namespace zfcuda
