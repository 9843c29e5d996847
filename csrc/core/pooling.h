#pragma once

#include <cstdint>
#include <limits>

#include "core/host_device.h"
#include "core/kernels.h"

// Pooling geometry along one axis, and the codes that switches are made of.

namespace zfcuda {

template <class Index>
struct Range {
  Index begin, end;

  ZF_HOST_DEVICE bool holds(Index i) const { return i >= begin && i < end; }
};

// The taps of window `out` that lie inside [0, size).
template <class Index>
ZF_HOST_DEVICE Range<Index> taps_inside(Index out, Index kernel, Index stride, Index padding,
                                        Index dilation, Index size) {
  const Index start = out * stride - padding;
  const Index begin = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const Index reach = start < size ? (size - start + dilation - 1) / dilation : 0;
  return {begin, reach < kernel ? reach : kernel};
}

// The windows that may have a tap on coordinate `in`, which may be off the map; with dilation some
// of them step over it.
template <class Index>
ZF_HOST_DEVICE Range<Index> windows_over(Index in, Index kernel, Index stride, Index padding,
                                         Index dilation, Index out_size) {
  const Index place = in + padding;
  const Index span = (kernel - 1) * dilation;
  const Index begin = place <= span ? 0 : (place - span + stride - 1) / stride;
  const Index end = place < 0 ? 0 : place / stride + 1;
  return {begin, end < out_size ? end : out_size};
}

// The tap of window `out` that lies on coordinate `in`, or -1.
template <class Index>
ZF_HOST_DEVICE Index tap_on(Index in, Index out, Index stride, Index padding, Index dilation) {
  const Index offset = in + padding - out * stride;
  if (dilation == 1) return offset;
  return offset % dilation == 0 ? offset / dilation : -1;
}

// "This window has no tap": 255 in uint8, -1 in int32.
template <class Switch>
inline constexpr Switch no_tap = static_cast<Switch>(-1);

// NaN wins over everything and the last NaN over earlier ones; otherwise the first maximum stays.
template <class T>
ZF_HOST_DEVICE bool replaces(T candidate, T best) {
  return candidate > best || candidate != candidate;
}

// relu that lets NaN through.
template <class T>
ZF_HOST_DEVICE T rectified(T value) {
  return value < T(0) ? T(0) : value;
}

// The gradient that passes a ReLU whose output was `gate` (NaN passes, as in torch).
template <class T>
ZF_HOST_DEVICE T gated(T grad, T gate) {
  return gate <= T(0) ? T(0) : grad;
}

}  // namespace zfcuda
