#include <torch/library.h>

#include <limits>
#include <vector>

#include "common/dispatch.h"
#include "common/prepare.h"
#include "core/pooling.h"
#include "cpu/level.h"
#include "cpu/rows.h"
#include "cpu/windows.h"

#define ZF_LOOPS "cpu/pool_windows_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Pools one row of a window at a time: first a list of where each pixel under it lies, then for
// each pooled pixel the largest of its taps.
template <class T>
class WindowPooler {
  using C = Compute<T>;

 public:
  explicit WindowPooler(const PoolWindowsParams& p)
      : p_(p), m_(p.map), w_(p.window), pool_(ZF_PICK(pool_pixel<C>)) {}

  void enter(const WindowRow& row) {
    row_ = row.clipped(m_.height, m_.width);
    // The columns of the map under the window.
    const Box& box = row_.box;
    begin_ = std::clamp<int64_t>(box.x0 * w_.stride_w - w_.padding_w, 0, m_.width);
    end_ = std::clamp<int64_t>(
        (box.x1 - 1) * w_.stride_w - w_.padding_w + (w_.kernel_w - 1) * w_.dilation_w + 1, begin_,
        m_.width);
    columns_.clear();
    for (int64_t x = box.x0; x < box.x1; ++x) {
      columns_.push_back(
          taps_inside(x, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w, m_.width));
    }
  }

  void write(int64_t y, int64_t out) {
    const auto rows =
        taps_inside(y, w_.kernel_h, w_.stride_h, w_.padding_h, w_.dilation_h, m_.height);
    find_pixels(y, rows);
    T* target = static_cast<T*>(m_.out) + out * m_.channels;
    for (int64_t i = 0; i < row_.box.width(); ++i) pool_one(i, rows, target + i * m_.channels);
  }

 private:
  // Lists the pixels of all rows of taps of pooled row `y`.
  void find_pixels(int64_t y, const Range<int64_t>& rows) {
    const int64_t width = end_ - begin_;
    pixels_.clear();
    if (rows.begin >= rows.end) return;
    if constexpr (!computes_in_place<T>) {
      widened_.resize((rows.end - rows.begin) * width * m_.channels);
    }
    const LaidMap<T> map(m_, row_);
    for (int64_t tap = rows.begin; tap < rows.end; ++tap) {
      map.for_each_piece(y * w_.stride_h - w_.padding_h + tap * w_.dilation_h, begin_, end_,
                         [&](int64_t, int64_t count, const T* source) { list(source, count); });
    }
  }

  // `count` neighbouring pixels; 16-bit ones are widened first.
  void list(const T* source, int64_t count) {
    const C* from;
    if constexpr (computes_in_place<T>) {
      from = source;
    } else {
      C* row = widened_.data() + static_cast<int64_t>(pixels_.size()) * m_.channels;
      widen_row(source, row, count * m_.channels);
      from = row;
    }
    for (int64_t i = 0; i < count; ++i) pixels_.push_back(from + i * m_.channels);
  }

  // The `i`th pixel of the row.
  void pool_one(int64_t i, const Range<int64_t>& rows, T* target) {
    const Range<int64_t>& cols = columns_[i];
    const int64_t left = (row_.box.x0 + i) * w_.stride_w - w_.padding_w - begin_;
    taps_.clear();
    for (int64_t row = 0; row < rows.end - rows.begin; ++row) {
      const C* const* pixels = pixels_.data() + row * (end_ - begin_) + left;
      for (int64_t tap = cols.begin; tap < cols.end; ++tap) {
        taps_.push_back(pixels[tap * w_.dilation_w]);
      }
    }
    const auto count = static_cast<int64_t>(taps_.size());
    const C lowest = p_.relu && count > 0 ? C(0) : -std::numeric_limits<C>::infinity();
    if constexpr (computes_in_place<T>) {
      pool_(taps_.data(), count, lowest, target, m_.channels);
    } else {
      narrow_.resize(m_.channels);
      pool_(taps_.data(), count, lowest, narrow_.data(), m_.channels);
      narrow_row(narrow_.data(), target, m_.channels);
    }
  }

  const PoolWindowsParams& p_;
  const WindowsParams& m_;
  const PoolWindow& w_;
  void (*pool_)(const C* const*, int64_t, C, C*, int64_t);
  WindowRow row_{};
  int64_t begin_ = 0, end_ = 0;
  std::vector<Range<int64_t>> columns_;  // the taps inside of the window's columns
  std::vector<const C*> pixels_, taps_;
  std::vector<C> widened_, narrow_;
};

void pool_windows(const at::Tensor& base, at::TensorList patches, const at::Tensor& windows,
                  const at::Tensor& out, int64_t largest, at::IntArrayRef kernel_size,
                  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                  bool relu) {
  const auto call = prepare_pool_windows(base, patches, windows, out, largest,
                                         {kernel_size, stride, padding, dilation}, relu);
  const PoolWindowsParams& p = call.params;
  const WindowList list("pool_windows", p.map);
  with_dtype(p.map.dtype,
             [&]<class T>(T) { list.for_each_row(p.map, [&] { return WindowPooler<T>(p); }); });
}

TORCH_LIBRARY_IMPL(zfcuda, CPU, m) {
  m.impl("pool_windows", pool_windows);
}

}  // namespace
}  // namespace zfcuda::cpu
