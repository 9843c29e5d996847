#pragma once

#include "core/pooling.h"
#include "core/scalar.h"

// Unpooling and its transpose, one element at a time.

namespace zfcuda {

// Where an element of an [N,C,H,W] tensor lies, in either layout.
template <class Index>
ZF_HOST_DEVICE Index element_at(bool channels_last, Index n, Index c, Index row, Index col,
                                Index channels, Index height, Index width) {
  return channels_last ? ((n * height + row) * width + col) * channels + c
                       : ((n * channels + c) * height + row) * width + col;
}

// Whether a window after (oy, ox) in raster order also sends to (row, col), and so overwrites it.
template <class Index>
ZF_HOST_DEVICE bool overwritten(const MaxUnpoolBackwardParams& p, Index n, Index c, Index oy,
                                Index ox, Index row, Index col) {
  const PoolShape& s = p.shape;
  const Geometry<0, 0, Index> window(s.window);
  const auto rows = window.rows.over(row, s.out_h), cols = window.cols.over(col, s.out_w);
  for (Index y = oy; y < rows.end; ++y) {
    const Index ky = window.rows.tap(row, y);
    if (ky < 0) continue;
    for (Index x = y == oy ? ox + 1 : cols.begin; x < cols.end; ++x) {
      const Index kx = window.cols.tap(col, x);
      if (kx < 0) continue;
      const Index at = element_at<Index>(s.channels_last, n, c, y, x, s.channels, s.out_h, s.out_w);
      const auto taps = load_taps<0, 1>(p.switches, at, s.wide_switches);
      if (static_cast<Index>(taps.lane[0]) == window.tap(ky, kx)) return true;
    }
  }
  return false;
}

// The gradient that window (oy, ox) fetches from the place its switch names.
template <class T, class Index>
ZF_HOST_DEVICE T unpool_backward_at(const MaxUnpoolBackwardParams& p, Index n, Index c, Index oy,
                                    Index ox) {
  const PoolShape& s = p.shape;
  const Geometry<0, 0, Index> window(s.window);
  const Index at = element_at<Index>(s.channels_last, n, c, oy, ox, s.channels, s.out_h, s.out_w);
  const Index tap = load_taps<0, 1>(p.switches, at, s.wide_switches).lane[0];
  const Index kernel_w = window.cols.kernel();
  if (tap < 0 || tap >= window.tap(window.rows.kernel(), 0)) return T(0);
  const Index row = window.rows.coordinate(oy, tap / kernel_w),
              col = window.cols.coordinate(ox, tap % kernel_w);
  const bool inside =
      row >= 0 && row < static_cast<Index>(s.in_h) && col >= 0 && col < static_cast<Index>(s.in_w);
  if (!inside) return T(0);
  if (p.overwrite && overwritten<Index>(p, n, c, oy, ox, row, col)) return T(0);
  const Index from = element_at<Index>(s.channels_last, n, c, row, col, s.channels, s.in_h, s.in_w);
  const Compute<T> grad = widen(static_cast<const T*>(p.grad)[from]);
  if (!p.gate) return static_cast<T>(grad);
  return static_cast<T>(gated(grad, widen(static_cast<const T*>(p.gate)[from])));
}

}  // namespace zfcuda
