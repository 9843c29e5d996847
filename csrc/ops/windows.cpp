#include "ops/windows.h"

#include "core/windows.h"

namespace zfcuda {
namespace {

// Whether two dense tensors share memory. What is not dense is read from a copy.
bool overlap(const Tensor& a, const Tensor& b) {
  const auto range = [](const Tensor& tensor) {
    const auto* begin = static_cast<const char*>(tensor.const_data_ptr());
    return std::array{begin, begin + tensor.numel() * static_cast<int64_t>(tensor.element_size())};
  };
  if (a.numel() == 0 || b.numel() == 0) return false;
  const auto [a_begin, a_end] = range(a);
  const auto [b_begin, b_end] = range(b);
  return a_begin < b_end && b_begin < a_end;
}

// Has autograd notice that `out` is no longer what may have been saved: copied onto itself, a
// tensor stays as it is.
void note_change(const Tensor& out) {
  if (aoti_torch_copy_(out.get(), out.get(), 0) != TORCH_SUCCESS) {
    failed("writing to out, perhaps an inference tensor,");
  }
}

}  // namespace

Windows windows_of(const char* op, const std::vector<Tensor>& patches, const Tensor& windows,
                   const Tensor& out, int64_t largest, int64_t channels) {
  const DType dtype = checked_dtype(op, "out", out);
  check_rank(op, "out", out, 2, "[pixels,C]");
  ZF_CHECK(out.is_contiguous(), op, ": out must be contiguous, got strides ", text(out.strides()));
  ZF_CHECK(windows.dim() == 2 && windows.size(1) == WindowRow::columns, op,
           ": windows must be [Q,13], got shape ", text(windows.sizes()));
  ZF_CHECK_TYPE(dtype_of(windows) == ScalarType::Long, op, ": windows must be int64, got ",
                dtype_of(windows));
  check_device(op, "windows", windows, out);
  ZF_CHECK(largest >= 0, op, ": largest must not be negative, got ", largest);
  ZF_CHECK(static_cast<int64_t>(patches.size()) <= most_patch_buffers, op, ": at most ",
           most_patch_buffers, " patch buffers, got ", patches.size());

  Windows found{.params = {}, .kept = {dense(windows)}};
  found.kept.reserve(patches.size() + 2);
  WindowsParams& p = found.params;
  for (const Tensor& patch : patches) {
    ZF_CHECK(patch.dim() == 2 && patch.size(1) == channels, op, ": patches must be [pixels,",
             channels, "], got shape ", text(patch.sizes()));
    check_like(op, "patches", patch, out);
    found.kept.push_back(dense(patch));
    p.buffers[p.buffer_count++] = {found.kept.back().const_data_ptr(), patch.size(0)};
  }
  p.channels = channels;
  p.windows = found.kept[0].const_data_ptr<int64_t>();
  p.count = windows.size(0);
  p.largest = largest;
  p.out = out.mutable_data_ptr();
  p.out_pixels = out.size(0);
  p.out_channels = out.size(1);
  p.dtype = dtype;
  note_change(out);
  return found;
}

void check_base(const char* op, const char* name, const Tensor& base) {
  check_rank(op, name, base, 4, "[N,H,W,C]");
  ZF_CHECK(base.size(1) < (int64_t{1} << 30) && base.size(2) < (int64_t{1} << 30), op,
           ": height and width must be below 2^30, got ", text(base.sizes()));
}

void set_base(Windows& windows, const Tensor& base) {
  windows.kept.push_back(dense(base));
  WindowsParams& p = windows.params;
  // A base without elements may have no address, which would say that there is none; this one is
  // not read.
  p.base = base.numel() > 0 ? windows.kept.back().const_data_ptr() : p.windows;
  p.batch = base.size(0);
  p.height = base.size(1);
  p.width = base.size(2);
}

void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& out) {
  check_device(op, name, tensor, out);
  ZF_CHECK_TYPE(dtype_of(tensor) == dtype_of(out), op, ": ", name, " must have out's dtype ",
                dtype_of(out), ", got ", dtype_of(tensor));
  ZF_CHECK(!tensor.is_contiguous() || !overlap(out, tensor), op,
           ": out must not share memory with ", name);
}

void check_out_channels(const char* op, const Tensor& out, int64_t channels) {
  ZF_CHECK(out.size(1) == channels, op, ": out must be [pixels,", channels, "], got shape ",
           text(out.sizes()));
}

}  // namespace zfcuda
