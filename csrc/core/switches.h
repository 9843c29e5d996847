#pragma once

#include <vector>

#include "core/check.h"
#include "core/kernels.h"
#include "core/pooling.h"
#include "core/unpooling.h"

// Which switches a plane can have: the windows at its edges, and what is wrong with a switch that
// is none of them. For the host only.

namespace zfcuda {

// A window with taps off the plane, and which of its taps along the axis are on it.
struct EdgeWindow {
  int64_t window;
  Range<int64_t> inside;
};

// All such windows along one axis: none where nothing is padded, a few otherwise.
inline std::vector<EdgeWindow> edge_windows(int64_t windows, int64_t kernel, int64_t stride,
                                            int64_t padding, int64_t dilation, int64_t size) {
  std::vector<EdgeWindow> found;
  for (int64_t window = 0; window < windows; ++window) {
    const auto inside = taps_inside(window, kernel, stride, padding, dilation, size);
    if (inside.begin > 0 || inside.end < kernel) found.push_back({window, inside});
  }
  return found;
}

template <class Switch>
void check_taps(const PoolShape& s, const Switch* switches) {
  const int64_t taps = s.window.kernel_h * s.window.kernel_w;
  const int64_t count = s.batch * s.channels * s.out_h * s.out_w;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t tap = switches[i];
    ZF_CHECK((tap >= 0 && tap < taps) || switches[i] == no_tap<Switch>, "max_unpool2d: switch ",
             tap, " is no tap of a window with ", taps, " taps; expected 0 to ", taps - 1, ", or ",
             int64_t{no_tap<Switch>}, " for a window without taps");
  }
}

// Of the windows at the edges of the rows (or of the columns), whether they point off the plane.
template <class Switch>
void check_edges(const PoolShape& s, const Switch* switches, bool rows) {
  const PoolWindow& w = s.window;
  const auto edges =
      rows ? edge_windows(s.out_h, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.in_h)
           : edge_windows(s.out_w, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.in_w);
  const int64_t planes = s.batch * s.channels, others = rows ? s.out_w : s.out_h;
  for (const auto& [window, inside] : edges) {
    for (int64_t i = 0; i < planes * others; ++i) {
      const int64_t plane = i / others, other = i % others;
      const int64_t at =
          element_at(s.channels_last, plane / s.channels, plane % s.channels, rows ? window : other,
                     rows ? other : window, s.channels, s.out_h, s.out_w);
      if (switches[at] == no_tap<Switch>) continue;
      const int64_t tap = switches[at], step = rows ? tap / w.kernel_w : tap % w.kernel_w;
      const int64_t place = rows ? window * w.stride_h - w.padding_h + step * w.dilation_h
                                 : window * w.stride_w - w.padding_w + step * w.dilation_w;
      ZF_CHECK(inside.holds(step), "max_unpool2d: a switch points to ", rows ? "row " : "column ",
               place, " of an output of size [", s.in_h, ", ", s.in_w,
               "]; give output_size, the size of what was pooled");
    }
  }
}

// Raises ValueError if any switch is neither a tap number nor "no tap", or points off the unpooled
// plane, where its value would be lost. `switches` are in memory that the host can read.
inline void check_switches(const PoolShape& s, const void* switches) {
  const auto check = [&](const auto* data) {
    check_taps(s, data);
    check_edges(s, data, true);
    check_edges(s, data, false);
  };
  if (s.wide_switches) {
    check(static_cast<const int32_t*>(switches));
  } else {
    check(static_cast<const uint8_t*>(switches));
  }
}

}  // namespace zfcuda
