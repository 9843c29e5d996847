
#include <vector>

#include "core/dispatch.h"
#include "core/pooling.h"
#include "cpu/level.h"
#include "cpu/rows.h"
#include "cpu/windows.h"

namespace zfcuda::cpu {
namespace {

// The taps inside the map of a column of pooled pixels: the first one's place among the pixels
// listed of a row, and their number.
struct PooledColumn {
  int64_t first, taps;
};

}  // namespace
}  // namespace zfcuda::cpu

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
      : p_(p), m_(p.map), w_(p.window), pool_(ZF_PICK(pool_row<C>)) {}

  void enter(const WindowRow& row) {
    row_ = row.clipped(m_.height, m_.width);
    // The columns of the map under the window.
    const Box& box = row_.box;
    begin_ = std::clamp<int64_t>(box.x0 * w_.stride_w - w_.padding_w, 0, m_.width);
    end_ = std::clamp<int64_t>(
        (box.x1 - 1) * w_.stride_w - w_.padding_w + (w_.kernel_w - 1) * w_.dilation_w + 1, begin_,
        m_.width);
    columns_.clear();
    int64_t most = 0;
    for (int64_t x = box.x0; x < box.x1; ++x) {
      const auto taps =
          taps_inside(x, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w, m_.width);
      const int64_t first = x * w_.stride_w - w_.padding_w + taps.begin * w_.dilation_w;
      columns_.push_back({first - begin_, std::max<int64_t>(0, taps.end - taps.begin)});
      most = std::max(most, columns_.back().taps);
    }
    taps_.resize(most * std::min(w_.kernel_h, m_.height));
  }

  void write(int64_t y, int64_t out) {
    const int64_t rows = find_pixels(y), width = row_.box.width();
    T* target = static_cast<T*>(m_.out) + out * m_.channels;
    pool_(pixels_.data(), rows, end_ - begin_, columns_.data(), width, w_.dilation_w, p_.relu,
          writer_.begin(target, width * m_.channels), m_.channels, taps_.data());
    writer_.finish();
  }

 private:
  // Lists the pixels of all rows of taps of pooled row `y`; returns the number of rows.
  int64_t find_pixels(int64_t y) {
    const auto taps =
        taps_inside(y, w_.kernel_h, w_.stride_h, w_.padding_h, w_.dilation_h, m_.height);
    pixels_.clear();
    if (taps.begin >= taps.end) return 0;
    reader_.hold((taps.end - taps.begin) * (end_ - begin_) * m_.channels);
    const LaidMap<T> map(m_, row_);
    for (int64_t tap = taps.begin; tap < taps.end; ++tap) {
      map.for_each_piece(y * w_.stride_h - w_.padding_h + tap * w_.dilation_h, begin_, end_,
                         [&](int64_t, int64_t count, const T* source) { list(source, count); });
    }
    return taps.end - taps.begin;
  }

  // `count` neighbouring pixels.
  void list(const T* source, int64_t count) {
    const auto at = static_cast<int64_t>(pixels_.size()) * m_.channels;
    const C* from = reader_.read(source, at, count * m_.channels);
    for (int64_t i = 0; i < count; ++i) pixels_.push_back(from + i * m_.channels);
  }

  const PoolWindowsParams& p_;
  const WindowsParams& m_;
  const PoolWindow& w_;
  void (*pool_)(const C* const*, int64_t, int64_t, const PooledColumn*, int64_t, int64_t, bool, C*,
                int64_t, const C**);
  WindowRow row_{};
  int64_t begin_ = 0, end_ = 0;
  std::vector<PooledColumn> columns_;
  std::vector<const C*> pixels_, taps_;
  RowReader<T> reader_;
  RowWriter<T> writer_;
};

}  // namespace

void pool_windows(const PoolWindowsParams& p) {
  const WindowList list("pool_windows", p.map);
  with_dtype(p.map.dtype,
             [&]<class T>(T) { list.for_each_row(p.map, [&] { return WindowPooler<T>(p); }); });
}

}  // namespace zfcuda::cpu
