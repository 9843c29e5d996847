#include <ATen/MemoryOverlap.h>

#include "common/checks.h"
#include "common/prepare.h"
#include "core/windows.h"

namespace zfcuda {
namespace {

void check_like(const char* op, const char* name, const at::Tensor& tensor, const at::Tensor& out) {
  check_device(op, name, tensor, out);
  TORCH_CHECK_TYPE(tensor.scalar_type() == out.scalar_type(), op, ": ", name,
                   " must have out's dtype ", out.scalar_type(), ", got ", tensor.scalar_type());
  const auto overlap = at::get_overlap_status(out, tensor);
  TORCH_CHECK_VALUE(
      overlap != at::MemOverlapStatus::Full && overlap != at::MemOverlapStatus::Partial, op,
      ": out must not share memory with ", name);
}

// What all three ops take, but for their base.
template <class Params>
Call<Params> prepare_windows(const char* op, at::TensorList patches, const at::Tensor& windows,
                             const at::Tensor& out, int64_t largest, int64_t channels) {
  const DType dtype = checked_dtype(op, "out", out);
  check_rank(op, "out", out, 2, "[pixels,C]");
  TORCH_CHECK_VALUE(out.is_contiguous(), op, ": out must be contiguous, got strides ",
                    out.strides());
  TORCH_CHECK_VALUE(windows.dim() == 2 && windows.size(1) == WindowRow::columns, op,
                    ": windows must be [Q,13], got shape ", windows.sizes());
  TORCH_CHECK_TYPE(windows.scalar_type() == at::kLong, op, ": windows must be int64, got ",
                   windows.scalar_type());
  check_device(op, "windows", windows, out);
  TORCH_CHECK_VALUE(largest >= 0, op, ": largest must not be negative, got ", largest);
  TORCH_CHECK_VALUE(static_cast<int64_t>(patches.size()) <= most_patch_buffers, op, ": at most ",
                    most_patch_buffers, " patch buffers, got ", patches.size());

  Call<Params> call{};
  call.out = out;
  call.operands[0] = windows.contiguous();
  WindowsParams& p = call.params.map;
  for (const at::Tensor& patch : patches) {
    TORCH_CHECK_VALUE(patch.dim() == 2 && patch.size(1) == channels, op,
                      ": patches must be [pixels,", channels, "], got shape ", patch.sizes());
    check_like(op, "patches", patch, out);
    call.patches.push_back(patch.contiguous());
    p.buffers[p.buffer_count++] = {call.patches.back().const_data_ptr(), patch.size(0)};
  }
  p.channels = channels;
  p.windows = call.operands[0].template const_data_ptr<int64_t>();
  p.count = windows.size(0);
  p.largest = largest;
  p.out = out.mutable_data_ptr();
  p.out_pixels = out.size(0);
  p.out_channels = out.size(1);
  p.dtype = dtype;
  // Autograd must notice that `out` is no longer what was saved.
  out.unsafeGetTensorImpl()->bump_version();
  return call;
}

template <class Params>
void set_base(Call<Params>& call, const at::Tensor& base) {
  call.operands[1] = base.contiguous();
  WindowsParams& p = call.params.map;
  p.base = call.operands[1].const_data_ptr();
  p.batch = base.size(0);
  p.height = base.size(1);
  p.width = base.size(2);
}

void check_base(const char* op, const char* name, const at::Tensor& base) {
  check_rank(op, name, base, 4, "[N,H,W,C]");
  TORCH_CHECK_VALUE(base.size(1) < (int64_t{1} << 30) && base.size(2) < (int64_t{1} << 30), op,
                    ": height and width must be below 2^30, got ", base.sizes());
}

int64_t channels_of(const char* op, const std::optional<at::Tensor>& base, at::TensorList patches) {
  if (base) {
    check_base(op, "base", *base);
    return base->size(3);
  }
  TORCH_CHECK_VALUE(!patches.empty(), op, ": without a base there must be patches");
  check_rank(op, "patches", patches[0], 2, "[pixels,C]");
  return patches[0].size(1);
}

void check_out_channels(const char* op, const at::Tensor& out, int64_t channels) {
  TORCH_CHECK_VALUE(out.size(1) == channels, op, ": out must be [pixels,", channels,
                    "], got shape ", out.sizes());
}

}  // namespace

Call<GatherWindowsParams> prepare_gather_windows(const std::optional<at::Tensor>& base,
                                                 at::TensorList patches, const at::Tensor& windows,
                                                 const at::Tensor& out, int64_t largest,
                                                 int64_t channel, double outside, bool add) {
  constexpr const char* op = "gather_windows";
  const int64_t channels = channels_of(op, base, patches);
  auto call = prepare_windows<GatherWindowsParams>(op, patches, windows, out, largest, channels);
  TORCH_CHECK_VALUE(channel >= 0 && channel <= out.size(1) - channels, op, ": ", channels,
                    " channels from ", channel, " on do not fit out's ", out.size(1));
  if (base) {
    check_like(op, "base", *base, out);
    set_base(call, *base);
  }
  call.params.channel = channel;
  call.params.outside = outside;
  call.params.add = add;
  return call;
}

Call<PoolWindowsParams> prepare_pool_windows(const at::Tensor& base, at::TensorList patches,
                                             const at::Tensor& windows, const at::Tensor& out,
                                             int64_t largest, const PoolArguments& window,
                                             bool relu) {
  constexpr const char* op = "pool_windows";
  check_base(op, "base", base);
  auto call = prepare_windows<PoolWindowsParams>(op, patches, windows, out, largest, base.size(3));
  check_out_channels(op, out, base.size(3));
  check_like(op, "base", base, out);
  set_base(call, base);
  call.params.window = checked_window(op, window);
  call.params.relu = relu;
  return call;
}

Call<UnpoolWindowsParams> prepare_unpool_windows(const at::Tensor& switches, at::TensorList patches,
                                                 const at::Tensor& windows, const at::Tensor& out,
                                                 int64_t largest, const PoolArguments& arguments,
                                                 bool relu, bool overwrite) {
  constexpr const char* op = "unpool_windows";
  check_base(op, "switches", switches);
  auto call =
      prepare_windows<UnpoolWindowsParams>(op, patches, windows, out, largest, switches.size(3));
  check_out_channels(op, out, switches.size(3));
  const PoolWindow window = checked_window(op, arguments);
  check_switch_dtype(op, switches, window);
  check_device(op, "switches", switches, out);
  set_base(call, switches);
  call.params.window = window;
  call.params.wide_switches = switches.scalar_type() == at::kInt;
  call.params.relu = relu;
  call.params.overwrite = overwrite;
  return call;
}

}  // namespace zfcuda
