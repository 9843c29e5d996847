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

// What the windows over one place of the unpooled plane send there, in raster order.
template <class T, class Switch, class Index>
ZF_HOST_DEVICE Compute<T> unpooled_at(const MaxUnpoolParams& p, Index n, Index c, Index row,
                                      Index col) {
  const PoolShape& s = p.shape;
  const PoolWindow& w = s.window;
  const auto rows =
      windows_over<Index>(row, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.out_h);
  const auto cols =
      windows_over<Index>(col, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.out_w);
  Compute<T> sum = 0;
  for (Index oy = rows.begin; oy < rows.end; ++oy) {
    const Index ky = tap_on<Index>(row, oy, w.stride_h, w.padding_h, w.dilation_h);
    if (ky < 0) continue;
    for (Index ox = cols.begin; ox < cols.end; ++ox) {
      const Index kx = tap_on<Index>(col, ox, w.stride_w, w.padding_w, w.dilation_w);
      if (kx < 0) continue;
      const Index at =
          element_at<Index>(s.channels_last, n, c, oy, ox, s.channels, s.out_h, s.out_w);
      if (static_cast<const Switch*>(p.switches)[at] != static_cast<Switch>(ky * w.kernel_w + kx))
        continue;
      Compute<T> value = widen(static_cast<const T*>(p.y)[at]);
      if (p.gate) value = gated(value, widen(static_cast<const T*>(p.gate)[at]));
      sum = p.overwrite ? value : sum + value;
    }
  }
  return p.relu ? rectified(sum) : sum;
}

// Whether a window after (oy, ox) in raster order also sends to (row, col), and so overwrites it.
template <class Switch, class Index>
ZF_HOST_DEVICE bool overwritten(const MaxUnpoolBackwardParams& p, Index n, Index c, Index oy,
                                Index ox, Index row, Index col) {
  const PoolShape& s = p.shape;
  const PoolWindow& w = s.window;
  const auto rows =
      windows_over<Index>(row, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.out_h);
  const auto cols =
      windows_over<Index>(col, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.out_w);
  for (Index y = oy; y < rows.end; ++y) {
    const Index ky = tap_on<Index>(row, y, w.stride_h, w.padding_h, w.dilation_h);
    if (ky < 0) continue;
    for (Index x = y == oy ? ox + 1 : cols.begin; x < cols.end; ++x) {
      const Index kx = tap_on<Index>(col, x, w.stride_w, w.padding_w, w.dilation_w);
      if (kx < 0) continue;
      const Index at = element_at<Index>(s.channels_last, n, c, y, x, s.channels, s.out_h, s.out_w);
      if (static_cast<const Switch*>(p.switches)[at] == static_cast<Switch>(ky * w.kernel_w + kx))
        return true;
    }
  }
  return false;
}

// The gradient that window (oy, ox) fetches from the place its switch names.
template <class T, class Switch, class Index>
ZF_HOST_DEVICE T unpool_backward_at(const MaxUnpoolBackwardParams& p, Index n, Index c, Index oy,
                                    Index ox) {
  const PoolShape& s = p.shape;
  const PoolWindow& w = s.window;
  const Index at = element_at<Index>(s.channels_last, n, c, oy, ox, s.channels, s.out_h, s.out_w);
  const Switch tap = static_cast<const Switch*>(p.switches)[at];
  const Index kernel_w = w.kernel_w;
  const Index taps = static_cast<Index>(w.kernel_h) * kernel_w;
  if (static_cast<Index>(tap) < 0 || static_cast<Index>(tap) >= taps) return T(0);
  const Index row = oy * static_cast<Index>(w.stride_h) - static_cast<Index>(w.padding_h) +
                    static_cast<Index>(tap) / kernel_w * static_cast<Index>(w.dilation_h);
  const Index col = ox * static_cast<Index>(w.stride_w) - static_cast<Index>(w.padding_w) +
                    static_cast<Index>(tap) % kernel_w * static_cast<Index>(w.dilation_w);
  const bool inside =
      row >= 0 && row < static_cast<Index>(s.in_h) && col >= 0 && col < static_cast<Index>(s.in_w);
  if (!inside) return T(0);
  if (p.overwrite && overwritten<Switch, Index>(p, n, c, oy, ox, row, col)) return T(0);
  const Index from = element_at<Index>(s.channels_last, n, c, row, col, s.channels, s.in_h, s.in_w);
  const Compute<T> grad = widen(static_cast<const T*>(p.grad)[from]);
  if (!p.gate) return static_cast<T>(grad);
  return static_cast<T>(gated(grad, widen(static_cast<const T*>(p.gate)[from])));
}

}  // namespace zfcuda
