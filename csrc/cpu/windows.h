#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/windows.h"
#include "cpu/parallel.h"

// What the CPU kernels on windows of maps under patches share: which row of pixels comes from
// where, and who works on which rows.

namespace zfcuda::cpu {

// One image of a map with one patch laid over it. T is the type of the pixels' channels.
template <class T>
class LaidMap {
 public:
  LaidMap(const WindowsParams& p, const WindowRow& row) : p_(p), row_(row) {
    if (row.has_patch()) {
      patch_ = static_cast<const T*>(p.buffers[row.buffer].data) + row.offset * p.channels;
    }
    if (p.base) {
      image_ = static_cast<const T*>(p.base) + row.image * p.height * p.width * p.channels;
    }
  }

  // Calls f(x, count, pixels) from left to right for the contiguous pieces of row `y` between
  // columns `begin` and `end`; `pixels` is null off the map. Empty pieces may be among them.
  template <class F>
  void for_each_piece(int64_t y, int64_t begin, int64_t end, const F& f) const {
    if (!patch_ || y < row_.patch.y0 || y >= row_.patch.y1) return base_pieces(y, begin, end, f);
    const int64_t left = std::clamp(row_.patch.x0, begin, end),
                  right = std::clamp(row_.patch.x1, left, end);
    base_pieces(y, begin, left, f);
    f(left, right - left,
      patch_ + ((y - row_.patch.y0) * row_.pitch + left - row_.patch.x0) * p_.channels);
    base_pieces(y, right, end, f);
  }

 private:
  template <class F>
  void base_pieces(int64_t y, int64_t begin, int64_t end, const F& f) const {
    if (begin >= end) return;
    if (!image_ || y < 0 || y >= p_.height) return f(begin, end - begin, nullptr);
    const int64_t left = std::clamp<int64_t>(0, begin, end),
                  right = std::clamp(p_.width, left, end);
    if (begin < left) f(begin, left - begin, nullptr);
    if (left < right) f(left, right - left, image_ + (y * p_.width + left) * p_.channels);
    if (right < end) f(right, end - right, nullptr);
  }

  const WindowsParams& p_;
  const WindowRow& row_;
  const T* patch_ = nullptr;
  const T* image_ = nullptr;
};

// The windows that are not empty, checked.
class WindowList {
 public:
  // Raises ValueError for a row that would read or write out of bounds.
  WindowList(const char* op, const WindowsParams& p);

  // Shares the windows' rows out in parallel, by pixels. Each chunk makes a worker of its own, to
  // which it calls enter(row) for each window and then write(y, out) for rows of it; `out` is the
  // first pixel of `out` that row y goes to.
  template <class Make>
  void for_each_row(const WindowsParams& p, const Make& make) const {
    // A chunk is worth handing to another thread from some ten thousand values on.
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, p.channels));
    parallel_for(0, begins_.back(), grain, [&](int64_t begin, int64_t end) {
      auto worker = make();
      visit(begin, end, worker);
    });
  }

 private:
  // The rows whose first pixel is one of the pixels begin ... end - 1, all windows counted through.
  template <class Worker>
  void visit(int64_t begin, int64_t end, Worker& worker) const {
    const auto after = std::upper_bound(begins_.begin(), begins_.end(), begin);
    for (auto i = static_cast<size_t>(after - begins_.begin()) - 1;
         i < rows_.size() && begins_[i] < end; ++i) {
      const WindowRow& row = rows_[i];
      const int64_t width = row.box.width();
      const auto first_row_from = [&](int64_t pixel) {
        return std::max<int64_t>(0, pixel - begins_[i] + width - 1) / width;
      };
      const int64_t first = first_row_from(begin),
                    last = std::min(first_row_from(end), row.box.height());
      if (first >= last) continue;
      worker.enter(row);
      for (int64_t y = first; y < last; ++y) worker.write(row.box.y0 + y, row.out + y * width);
    }
  }

  std::vector<WindowRow> rows_;
  std::vector<int64_t> begins_;  // where each window's pixels begin, and where the last one's end
};

}  // namespace zfcuda::cpu
