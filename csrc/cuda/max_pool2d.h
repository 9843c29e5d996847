#pragma once

#include <type_traits>

#include "common/dispatch.h"
#include "core/pooling.h"
#include "core/scalar.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// The state of one window's search for its maximum. `tap` is -1 until the window has met a tap.
template <class C>
struct Best {
  C value;
  int32_t tap;

  ZF_HOST_DEVICE static Best start(bool relu) {
    return {relu ? C(0) : -std::numeric_limits<C>::infinity(), -1};
  }

  ZF_HOST_DEVICE void meet(C candidate, int32_t candidate_tap) {
    const bool take = replaces(candidate, value);
    value = take ? candidate : value;
    tap = take || tap < 0 ? candidate_tap : tap;
  }

  template <class T>
  ZF_HOST_DEVICE T result() const {
    return static_cast<T>(tap < 0 ? -std::numeric_limits<C>::infinity() : value);
  }
};

// K x K windows at compile time unroll; K = 0 reads the size at run time.
template <int K>
ZF_HOST_DEVICE int64_t size_or(int64_t size) {
  return K > 0 ? K : size;
}

// contiguous: a thread pools V neighbouring outputs of a row. With V > 1 the V * Stride inputs per
// tap row that belong to it alone are one 16-byte load (the caller has checked alignment, and that
// there is no padding on the left), so a warp reads its rows in full lines; the K - Stride inputs
// it shares with its neighbour come from the cache.
template <class T, class Switch, int K, int Stride, int V, class Index>
struct MaxPoolRow {
  MaxPoolParams p;
  bool packed_store;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const PoolShape& s = p.shape;
    const Index out_w = s.out_w, out_h = s.out_h, in_w = s.in_w, groups = (out_w + V - 1) / V;
    const Index ox = i % groups * V, row = i / groups, oy = row % out_h, plane = row / out_h;
    const T* x = static_cast<const T*>(p.x) + plane * static_cast<Index>(s.in_h) * in_w;
    const Index out = row * out_w + ox;
    const auto rows = taps_inside<Index>(oy, size_or<K>(s.window.kernel_h), s.window.stride_h,
                                         s.window.padding_h, s.window.dilation_h, s.in_h);
    if constexpr (V > 1) {
      constexpr int span = (V - 1) * Stride + K;
      if (ox * Stride + span <= in_w && ox + V <= out_w) {
        Best<C> best[V];
        ZF_UNROLL
        for (int v = 0; v < V; ++v) best[v] = Best<C>::start(p.relu);
        ZF_UNROLL
        for (int ky = 0; ky < K; ++ky) {
          if (ky < rows.begin || ky >= rows.end) continue;
          const T* from = x +
                          (oy * static_cast<Index>(s.window.stride_h) -
                           static_cast<Index>(s.window.padding_h) + ky) *
                              in_w +
                          ox * Stride;
          T values[span];
          const auto own = load_pack<V * Stride>(from);
          ZF_UNROLL
          for (int j = 0; j < span; ++j)
            values[j] = j < V * Stride ? own.lane[j < V * Stride ? j : 0] : from[j];
          ZF_UNROLL
          for (int v = 0; v < V; ++v) {
            ZF_UNROLL
            for (int kx = 0; kx < K; ++kx)
              best[v].meet(widen(values[v * Stride + kx]), ky * K + kx);
          }
        }
        store(out, best);
        return;
      }
    }
    for (int v = 0; v < V && ox + v < out_w; ++v) pool_one(x, ox + v, oy, rows, out + v);
  }

 private:
  template <class C>
  ZF_HOST_DEVICE void store(Index out, const Best<C> (&best)[V]) const {
    Pack<T, V> y;
    Pack<Switch, V> taps;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      y.lane[v] = best[v].template result<T>();
      taps.lane[v] = static_cast<Switch>(best[v].tap);
    }
    if (packed_store) {
      store_pack(static_cast<T*>(p.y) + out, y);
      store_pack(static_cast<Switch*>(p.switches) + out, taps);
      return;
    }
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      static_cast<T*>(p.y)[out + v] = y.lane[v];
      static_cast<Switch*>(p.switches)[out + v] = taps.lane[v];
    }
  }

  ZF_HOST_DEVICE void pool_one(const T* x, Index ox, Index oy, const Range<Index>& rows,
                               Index out) const {
    const PoolShape& s = p.shape;
    const PoolWindow& w = s.window;
    const Index kernel_w = size_or<K>(w.kernel_w);
    const auto cols =
        taps_inside<Index>(ox, kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.in_w);
    const Index top = oy * static_cast<Index>(w.stride_h) - static_cast<Index>(w.padding_h);
    const Index left = ox * static_cast<Index>(w.stride_w) - static_cast<Index>(w.padding_w);
    auto best = Best<Compute<T>>::start(p.relu);
    for (Index ky = rows.begin; ky < rows.end; ++ky) {
      const T* from =
          x + (top + ky * static_cast<Index>(w.dilation_h)) * static_cast<Index>(s.in_w) + left;
      for (Index kx = cols.begin; kx < cols.end; ++kx) {
        best.meet(widen(from[kx * static_cast<Index>(w.dilation_w)]),
                  static_cast<int32_t>(ky * kernel_w + kx));
      }
    }
    static_cast<T*>(p.y)[out] = best.template result<T>();
    static_cast<Switch*>(p.switches)[out] = static_cast<Switch>(best.tap);
  }
};

// channels_last: a thread pools V channels of one output pixel; every access is V * sizeof(T)
// bytes.
template <class T, class Switch, int K, int V, class Index>
struct MaxPoolPixel {
  MaxPoolParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const PoolShape& s = p.shape;
    const PoolWindow& w = s.window;
    const Index channels = s.channels, groups = channels / V, out_w = s.out_w, out_h = s.out_h;
    const Index kernel_h = size_or<K>(w.kernel_h), kernel_w = size_or<K>(w.kernel_w);
    const Index c = i % groups * V, pixel = i / groups, ox = pixel % out_w,
                oy = pixel / out_w % out_h;
    const Index n = pixel / out_w / out_h;
    const auto rows =
        taps_inside<Index>(oy, kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.in_h);
    const auto cols =
        taps_inside<Index>(ox, kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.in_w);
    const Index top = oy * static_cast<Index>(w.stride_h) - static_cast<Index>(w.padding_h);
    const Index left = ox * static_cast<Index>(w.stride_w) - static_cast<Index>(w.padding_w);
    const T* x = static_cast<const T*>(p.x) +
                 n * static_cast<Index>(s.in_h) * static_cast<Index>(s.in_w) * channels + c;
    Best<C> best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) best[v] = Best<C>::start(p.relu);
    ZF_UNROLL
    for (Index ky = 0; ky < kernel_h; ++ky) {
      if (ky < rows.begin || ky >= rows.end) continue;
      ZF_UNROLL
      for (Index kx = 0; kx < kernel_w; ++kx) {
        if (kx < cols.begin || kx >= cols.end) continue;
        const Index row = top + ky * static_cast<Index>(w.dilation_h),
                    col = left + kx * static_cast<Index>(w.dilation_w);
        const auto pack = load_pack<V>(x + (row * static_cast<Index>(s.in_w) + col) * channels);
        const auto candidate_tap = static_cast<int32_t>(ky * kernel_w + kx);
        ZF_UNROLL
        for (int v = 0; v < V; ++v) best[v].meet(widen(pack.lane[v]), candidate_tap);
      }
    }
    Pack<T, V> y;
    Pack<Switch, V> taps;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      y.lane[v] = best[v].template result<T>();
      taps.lane[v] = static_cast<Switch>(best[v].tap);
    }
    const Index out = pixel * channels + c;
    store_pack(static_cast<T*>(p.y) + out, y);
    store_pack(static_cast<Switch*>(p.switches) + out, taps);
  }
};

template <class T, class Switch, int K, int Stride, class Index, class Launch>
int max_pool2d_sized(const MaxPoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  constexpr int wide = 16 / sizeof(T);
  if (s.channels_last) {
    const Index pixels = s.batch * s.out_h * s.out_w;
    const bool packed = aligned(p.x, s.channels * sizeof(T)) && aligned(p.y, 0);
    if (packed) {
      return launch(MaxPoolPixel<T, Switch, K, wide, Index>{p},
                    static_cast<Index>(pixels * (s.channels / wide)));
    }
    return launch(MaxPoolPixel<T, Switch, K, 1, Index>{p}, static_cast<Index>(pixels * s.channels));
  }
  const Index rows = s.batch * s.channels * s.out_h;
  if constexpr (K > 0 && wide / Stride > 1) {
    constexpr int V = wide / Stride;
    if (aligned(p.x, s.in_w * sizeof(T)) && s.window.padding_w == 0) {
      const bool packed_store =
          s.out_w % V == 0 && aligned(p.y, 0) && aligned(p.switches, 0, V * sizeof(Switch));
      return launch(MaxPoolRow<T, Switch, K, Stride, V, Index>{p, packed_store},
                    static_cast<Index>(rows * ((s.out_w + V - 1) / V)));
    }
  }
  return launch(MaxPoolRow<T, Switch, K, Stride, 1, Index>{p, false},
                static_cast<Index>(rows * s.out_w));
}

template <class T, class Switch, class Index, class Launch>
int max_pool2d_indexed(const MaxPoolParams& p, const Launch& launch) {
  const PoolWindow& w = p.shape.window;
  const bool dense = w.dilation_h == 1 && w.dilation_w == 1;
  if constexpr (std::is_same_v<Switch, uint8_t>) {
    if (dense && w.kernel_h == 3 && w.kernel_w == 3 && w.stride_w == 2) {
      return max_pool2d_sized<T, Switch, 3, 2, Index>(p, launch);
    }
    if (dense && w.kernel_h == 2 && w.kernel_w == 2 && w.stride_w == 2) {
      return max_pool2d_sized<T, Switch, 2, 2, Index>(p, launch);
    }
  }
  return max_pool2d_sized<T, Switch, 0, 1, Index>(p, launch);
}

template <class Launch>
int run_max_pool2d(const MaxPoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  int status = 0;
  with_dtype(s.dtype, [&]<class T>(T) {
    with_switch_type(s.wide_switches, [&]<class Switch>(Switch) {
      status = fits_int32(s) ? max_pool2d_indexed<T, Switch, int32_t>(p, launch)
                             : max_pool2d_indexed<T, Switch, int64_t>(p, launch);
    });
  });
  return status;
}

}  // namespace zfcuda::cuda
