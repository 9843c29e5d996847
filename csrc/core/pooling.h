#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/host_device.h"
#include "core/kernels.h"
#include "core/scalar.h"

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

// One axis of a pooling window. With K > 0 the compiler knows it: K taps at stride S, no dilation.
// With K = 0 it may be any.
template <int K, int S, class Index>
struct PoolAxis {
  Index any_kernel, any_stride, padding, any_dilation;

  ZF_HOST_DEVICE Index kernel() const { return K > 0 ? K : any_kernel; }
  ZF_HOST_DEVICE Index stride() const { return K > 0 ? S : any_stride; }
  ZF_HOST_DEVICE Index dilation() const { return K > 0 ? 1 : any_dilation; }

  // The coordinate under a window's tap, which may be off the map.
  ZF_HOST_DEVICE Index coordinate(Index out, Index tap) const {
    return out * stride() - padding + tap * dilation();
  }

  ZF_HOST_DEVICE Range<Index> inside(Index out, Index size) const {
    return taps_inside<Index>(out, kernel(), stride(), padding, dilation(), size);
  }

  ZF_HOST_DEVICE Range<Index> over(Index in, Index out_size) const {
    return windows_over<Index>(in, kernel(), stride(), padding, dilation(), out_size);
  }

  ZF_HOST_DEVICE Index tap(Index in, Index out) const {
    return tap_on<Index>(in, out, stride(), padding, dilation());
  }
};

// A pooling window as a kernel sees it: K x K at stride S, or any for K = 0.
template <int K, int S, class Index>
struct Geometry {
  PoolAxis<K, S, Index> rows, cols;

  ZF_HOST_DEVICE explicit Geometry(const PoolWindow& w)
      : rows{static_cast<Index>(w.kernel_h), static_cast<Index>(w.stride_h),
             static_cast<Index>(w.padding_h), static_cast<Index>(w.dilation_h)},
        cols{static_cast<Index>(w.kernel_w), static_cast<Index>(w.stride_w),
             static_cast<Index>(w.padding_w), static_cast<Index>(w.dilation_w)} {}

  // What a switch says.
  ZF_HOST_DEVICE Index tap(Index ky, Index kx) const { return ky * cols.kernel() + kx; }
};

// "This window has no tap": 255 in uint8, -1 in int32.
template <class Switch>
inline constexpr Switch no_tap = static_cast<Switch>(-1);

// A tap's number in a register: what memory has for windows that the compiler knows, and of any
// others what holds both.
template <int K>
using Tap = std::conditional_t<(K > 0), uint8_t, int32_t>;

// V neighbouring switches, of bytes or (only of unknown windows) int32 where they are `wide`.
template <int K, int V, class Index>
ZF_HOST_DEVICE Pack<Tap<K>, V> load_taps(const void* switches, Index at, bool wide) {
  if (K == 0 && wide) return load_pack<V>(static_cast<const Tap<K>*>(switches) + at);
  const auto bytes = load_pack<V>(static_cast<const uint8_t*>(switches) + at);
  Pack<Tap<K>, V> taps;
  ZF_UNROLL
  for (int v = 0; v < V; ++v) taps.lane[v] = bytes.lane[v];
  return taps;
}

template <int K, int V, class Index>
ZF_HOST_DEVICE void store_taps(void* switches, Index at, const Pack<Tap<K>, V>& taps, bool wide) {
  if (K == 0 && wide) return store_pack(static_cast<Tap<K>*>(switches) + at, taps);
  Pack<uint8_t, V> bytes;
  ZF_UNROLL
  for (int v = 0; v < V; ++v) bytes.lane[v] = static_cast<uint8_t>(taps.lane[v]);
  store_pack(static_cast<uint8_t*>(switches) + at, bytes);
}

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
