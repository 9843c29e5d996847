#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/pooling.h"

namespace zfcuda::cpu {

// A window and an input coordinate that meet, seen from one of the two: `at` is the other, `tap`
// the window's tap that lies on the coordinate.
struct Meeting {
  int64_t at;
  int32_t tap;
};

// Every meeting along one axis, listed once per call so that no division is left in the loops.
class Meetings {
 public:
  // Seen from the windows: each one's coordinates inside the input, in order of tap.
  static Meetings of_windows(int64_t out, int64_t in, int64_t kernel, int64_t stride,
                             int64_t padding, int64_t dilation) {
    Meetings list;
    for (int64_t o = 0; o < out; ++o) {
      const auto taps = taps_inside(o, kernel, stride, padding, dilation, in);
      for (int64_t tap = taps.begin; tap < taps.end; ++tap) {
        list.add(o * stride - padding + tap * dilation, tap);
      }
      list.close();
    }
    return list;
  }

  // Seen from the input: the windows over each coordinate, in raster order.
  static Meetings of_inputs(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                            int64_t padding, int64_t dilation) {
    return of_inputs_between(0, in, out, kernel, stride, padding, dilation);
  }

  // Likewise of the coordinates first ... last - 1, counted from `first`; they may be off the map.
  static Meetings of_inputs_between(int64_t first, int64_t last, int64_t out, int64_t kernel,
                                    int64_t stride, int64_t padding, int64_t dilation) {
    Meetings list;
    for (int64_t i = first; i < last; ++i) {
      const auto windows = windows_over(i, kernel, stride, padding, dilation, out);
      for (int64_t o = windows.begin; o < windows.end; ++o) {
        const int64_t tap = tap_on(i, o, stride, padding, dilation);
        if (tap >= 0) list.add(o, tap);
      }
      list.close();
    }
    return list;
  }

  const Meeting* begin(int64_t i) const { return meetings_.data() + ends_[i]; }
  const Meeting* end(int64_t i) const { return meetings_.data() + ends_[i + 1]; }
  int64_t count(int64_t i) const { return ends_[i + 1] - ends_[i]; }

  // From the first to the last that one coordinate or window meets.
  int64_t widest() const {
    int64_t widest = 1;
    for (size_t i = 0; i + 1 < ends_.size(); ++i) {
      if (count(i) > 0) widest = std::max(widest, end(i)[-1].at - begin(i)->at + 1);
    }
    return widest;
  }

  int64_t most() const {
    int64_t most = 0;
    for (size_t i = 0; i + 1 < ends_.size(); ++i) most = std::max(most, count(i));
    return most;
  }

 private:
  void add(int64_t at, int64_t tap) { meetings_.push_back({at, static_cast<int32_t>(tap)}); }
  void close() { ends_.push_back(static_cast<int64_t>(meetings_.size())); }

  std::vector<Meeting> meetings_;
  std::vector<int64_t> ends_{0};
};

}  // namespace zfcuda::cpu
