#include <ATen/ops/any.h>

#include "common/checks.h"
#include "common/prepare.h"

namespace zfcuda {

PoolWindow checked_window(const char* op, const PoolArguments& arguments) {
  const auto pair = [&](const char* name, at::IntArrayRef value, int64_t least) {
    TORCH_CHECK_VALUE(value.size() == 2 && value[0] >= least && value[1] >= least, op, ": ", name,
                      " must be two ints of at least ", least, ", got ", value);
    TORCH_CHECK_VALUE(value[0] < (int64_t{1} << 30) && value[1] < (int64_t{1} << 30), op, ": ",
                      name, " must be below 2^30, got ", value);
  };
  pair("kernel_size", arguments.kernel_size, 1);
  pair("stride", arguments.stride, 1);
  pair("padding", arguments.padding, 0);
  pair("dilation", arguments.dilation, 1);
  const PoolWindow window{arguments.kernel_size[0], arguments.kernel_size[1], arguments.stride[0],
                          arguments.stride[1],      arguments.padding[0],     arguments.padding[1],
                          arguments.dilation[0],    arguments.dilation[1]};
  TORCH_CHECK_VALUE(
      window.padding_h <= window.kernel_h / 2 && window.padding_w <= window.kernel_w / 2, op,
      ": padding must be at most half the kernel, got padding ", arguments.padding,
      " for kernel_size ", arguments.kernel_size);
  TORCH_CHECK_VALUE(window.kernel_h * window.kernel_w < (int64_t{1} << 31), op, ": kernel_size ",
                    arguments.kernel_size, " has too many taps");
  return window;
}

namespace {

at::ScalarType switch_dtype(const PoolWindow& window) {
  constexpr int64_t max_byte_taps = 255;
  return window.kernel_h * window.kernel_w <= max_byte_taps ? at::kByte : at::kInt;
}

}  // namespace

void check_switch_dtype(const char* op, const at::Tensor& switches, const PoolWindow& window) {
  TORCH_CHECK_TYPE(switches.scalar_type() == switch_dtype(window), op, ": switches of a ",
                   window.kernel_h, "x", window.kernel_w, " window are ", switch_dtype(window),
                   ", got ", switches.scalar_type());
}

namespace {

int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                    bool ceil_mode) {
  const int64_t span = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (span < 0 && !(ceil_mode && span + stride - 1 >= 0)) return 0;
  int64_t out = (span + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  // As in torch: the last window must start inside the input or its left padding.
  if (ceil_mode && (out - 1) * stride >= size + padding) --out;
  return out;
}

PoolShape pool_shape(const at::Tensor& large, at::IntArrayRef in, at::IntArrayRef out,
                     const PoolWindow& window, DType dtype, at::MemoryFormat layout) {
  return {large.size(0),
          large.size(1),
          in[0],
          in[1],
          out[0],
          out[1],
          window,
          dtype,
          switch_dtype(window) == at::kInt,
          layout == at::MemoryFormat::ChannelsLast};
}

void check_switch_tensor(const char* op, const at::Tensor& switches, const PoolWindow& window,
                         const at::Tensor& like, at::IntArrayRef shape) {
  check_switch_dtype(op, switches, window);
  check_shape(op, "switches", switches, shape);
  check_device(op, "switches", switches, like);
}

// That a pooling with this window, with or without ceil_mode, takes a plane of size `in` to one of
// size `out`.
void check_pooled_from(const char* op, at::IntArrayRef in, at::IntArrayRef out, const PoolWindow& w,
                       const PoolArguments& arguments) {
  TORCH_CHECK_VALUE(in.size() == 2 && in[0] > 0 && in[1] > 0, op,
                    ": the unpooled size must be two positive ints, got ", in);
  const auto fits = [](int64_t size, int64_t pooled, int64_t k, int64_t s, int64_t p, int64_t d) {
    return pooled == pooled_size(size, k, s, p, d, false) ||
           pooled == pooled_size(size, k, s, p, d, true);
  };
  TORCH_CHECK_VALUE(fits(in[0], out[0], w.kernel_h, w.stride_h, w.padding_h, w.dilation_h) &&
                        fits(in[1], out[1], w.kernel_w, w.stride_w, w.padding_w, w.dilation_w),
                    op, ": a pooled size of ", out, " does not come from an input of size ", in,
                    " with kernel_size ", arguments.kernel_size, ", stride ", arguments.stride,
                    ", padding ", arguments.padding, ", dilation ", arguments.dilation);
}

Call<MaxUnpoolParams> prepare_unpool(const char* op, const at::Tensor& y,
                                     const at::Tensor& switches,
                                     const std::optional<at::Tensor>& gate,
                                     const PoolArguments& arguments, at::IntArrayRef size,
                                     at::MemoryFormat layout) {
  const DType dtype = checked_dtype(op, "y", y);
  check_rank(op, "y", y, 4, "[N,C,OH,OW]");
  const PoolWindow window = checked_window(op, arguments);
  check_switch_tensor(op, switches, window, y, y.sizes());
  check_pooled_from(op, size, y.sizes().slice(2), window, arguments);

  Call<MaxUnpoolParams> call;
  const std::array<int64_t, 4> shape{y.size(0), y.size(1), size[0], size[1]};
  call.out = empty_like_device(y, shape, y.scalar_type(), layout);
  call.operands = {y.contiguous(layout), switches.contiguous(layout)};
  if (gate) {
    check_shape(op, "gate", *gate, y.sizes());
    check_device(op, "gate", *gate, y);
    call.operands[2] = gate->to(y.scalar_type()).contiguous(layout);
  }
  call.params = {pool_shape(y, size, y.sizes().slice(2), window, dtype, layout),
                 call.operands[0].const_data_ptr(),
                 call.operands[1].const_data_ptr(),
                 gate ? call.operands[2].const_data_ptr() : nullptr,
                 call.out.mutable_data_ptr(),
                 false,
                 false};
  return call;
}

}  // namespace

Call<MaxPoolParams> prepare_max_pool2d(const at::Tensor& x, const PoolArguments& arguments,
                                       bool ceil_mode, bool relu) {
  constexpr const char* op = "max_pool2d";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  const PoolWindow w = checked_window(op, arguments);
  const std::array<int64_t, 2> in{x.size(2), x.size(3)};
  const std::array<int64_t, 2> out{
      pooled_size(in[0], w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, ceil_mode),
      pooled_size(in[1], w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, ceil_mode)};
  TORCH_CHECK_VALUE(in[0] > 0 && in[1] > 0 && out[0] > 0 && out[1] > 0, op, ": x of size ",
                    at::IntArrayRef(in), " is too small for kernel_size ", arguments.kernel_size,
                    " with padding ", arguments.padding, " and dilation ", arguments.dilation);

  const at::MemoryFormat layout = layout_of(x);
  Call<MaxPoolParams> call;
  const std::array<int64_t, 4> shape{x.size(0), x.size(1), out[0], out[1]};
  call.out = empty_like_device(x, shape, x.scalar_type(), layout);
  call.second_out = empty_like_device(x, shape, switch_dtype(w), layout);
  call.operands = {x.contiguous(layout)};
  call.params = {pool_shape(x, in, out, w, dtype, layout), call.operands[0].const_data_ptr(),
                 call.out.mutable_data_ptr(), call.second_out.mutable_data_ptr(), relu};
  return call;
}

Call<MaxUnpoolParams> prepare_max_pool2d_backward(const at::Tensor& grad,
                                                  const at::Tensor& switches,
                                                  const std::optional<at::Tensor>& y,
                                                  const PoolArguments& arguments,
                                                  at::IntArrayRef input_size) {
  // The layout is the forward pass's, which the switches kept; a gradient may arrive expanded.
  return prepare_unpool("max_pool2d_backward", grad, switches, y, arguments, input_size,
                        layout_of(switches));
}

Call<MaxUnpoolParams> prepare_max_unpool2d(const at::Tensor& y, const at::Tensor& switches,
                                           const PoolArguments& arguments,
                                           at::IntArrayRef output_size, bool relu, bool overwrite) {
  auto call = prepare_unpool("max_unpool2d", y, switches, std::nullopt, arguments, output_size,
                             layout_of(y));
  call.params.relu = relu;
  call.params.overwrite = overwrite;
  return call;
}

Call<MaxUnpoolBackwardParams> prepare_max_unpool2d_backward(const at::Tensor& grad,
                                                            const at::Tensor& switches,
                                                            const std::optional<at::Tensor>& out,
                                                            const PoolArguments& arguments,
                                                            bool overwrite) {
  constexpr const char* op = "max_unpool2d_backward";
  const DType dtype = checked_dtype(op, "grad", grad);
  check_rank(op, "grad", grad, 4, "[N,C,H,W]");
  check_rank(op, "switches", switches, 4, "[N,C,OH,OW]");
  const PoolWindow window = checked_window(op, arguments);
  const std::array<int64_t, 4> shape{grad.size(0), grad.size(1), switches.size(2),
                                     switches.size(3)};
  check_switch_tensor(op, switches, window, grad, shape);
  check_pooled_from(op, grad.sizes().slice(2), switches.sizes().slice(2), window, arguments);

  const at::MemoryFormat layout = layout_of(switches);
  Call<MaxUnpoolBackwardParams> call;
  call.out = empty_like_device(grad, shape, grad.scalar_type(), layout);
  call.operands = {grad.contiguous(layout), switches.contiguous(layout)};
  if (out) {
    check_shape(op, "out", *out, grad.sizes());
    check_device(op, "out", *out, grad);
    call.operands[2] = out->to(grad.scalar_type()).contiguous(layout);
  }
  call.params = {
      pool_shape(grad, grad.sizes().slice(2), switches.sizes().slice(2), window, dtype, layout),
      call.operands[0].const_data_ptr(),
      call.operands[1].const_data_ptr(),
      out ? call.operands[2].const_data_ptr() : nullptr,
      call.out.mutable_data_ptr(),
      overwrite};
  return call;
}

std::vector<EdgeWindow> edge_windows(int64_t windows, int64_t kernel, int64_t stride,
                                     int64_t padding, int64_t dilation, int64_t size) {
  std::vector<EdgeWindow> found;
  for (int64_t window = 0; window < windows; ++window) {
    const auto inside = taps_inside(window, kernel, stride, padding, dilation, size);
    if (inside.begin > 0 || inside.end < kernel) found.push_back({window, inside});
  }
  return found;
}

namespace {

void check_taps(const at::Tensor& switches, int64_t taps) {
  const bool bytes = switches.scalar_type() == at::kByte;
  const at::Tensor wrong = bytes ? switches.ge(taps).logical_and_(switches.ne(255))
                                 : switches.ge(taps).logical_or_(switches.lt(-1));
  if (!wrong.any().item<bool>()) return;
  const auto value = switches.masked_select(wrong)[0].item<int64_t>();
  TORCH_CHECK_VALUE(false, "max_unpool2d: switch ", value, " is no tap of a window with ", taps,
                    " taps; expected 0 to ", taps - 1, ", or ", bytes ? 255 : -1,
                    " for a window without taps");
}

// Of the windows along dimension `axis`, those at `edges`.
void check_edges(const at::Tensor& switches, int64_t axis, const std::vector<EdgeWindow>& edges,
                 const PoolShape& s) {
  const PoolWindow& w = s.window;
  for (const auto& [window, inside] : edges) {
    const at::Tensor tap = switches.select(axis, window).to(at::kLong);
    const at::Tensor step = axis == 2 ? tap.div(w.kernel_w, "floor") : tap.remainder(w.kernel_w);
    const at::Tensor lost = step.lt(inside.begin)
                                .logical_or_(step.ge(inside.end))
                                .logical_and_(tap.ne(s.wide_switches ? -1 : 255));
    if (!lost.any().item<bool>()) continue;
    const auto first = step.masked_select(lost)[0].item<int64_t>();
    const int64_t place = axis == 2 ? window * w.stride_h - w.padding_h + first * w.dilation_h
                                    : window * w.stride_w - w.padding_w + first * w.dilation_w;
    const std::array<int64_t, 2> size{s.in_h, s.in_w};
    TORCH_CHECK_VALUE(false, "max_unpool2d: a switch points to ", axis == 2 ? "row " : "column ",
                      place, " of an output of size ", at::IntArrayRef(size),
                      "; give output_size, the size of what was pooled");
  }
}

}  // namespace

void check_switches(const at::Tensor& switches, const PoolShape& s) {
  const PoolWindow& w = s.window;
  check_taps(switches, w.kernel_h * w.kernel_w);
  const auto rows =
      edge_windows(s.out_h, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.in_h);
  const auto columns =
      edge_windows(s.out_w, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.in_w);
  check_edges(switches, 2, rows, s);
  check_edges(switches, 3, columns, s);
}

}  // namespace zfcuda
