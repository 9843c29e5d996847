#include <type_traits>

#include "core/dispatch.h"
#include "core/divisor.h"
#include "core/pooling.h"
#include "core/scalar.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// The state of one window's search for its maximum. It starts at the window's first tap on the map,
// so that -inf is never taken and can stand for taps off the map; `tap` is -1 where there is none.
template <class C>
struct Best {
  C value;
  int32_t tap;

  template <class Index>
  ZF_HOST_DEVICE static Best start(bool relu, const Range<Index>& rows, const Range<Index>& cols,
                                   Index kernel_w) {
    const bool any = rows.begin < rows.end && cols.begin < cols.end;
    return {relu ? C(0) : -std::numeric_limits<C>::infinity(),
            any ? static_cast<int32_t>(rows.begin * kernel_w + cols.begin) : -1};
  }

  ZF_HOST_DEVICE void meet(C candidate, int32_t candidate_tap) {
    const bool take = replaces(candidate, value);
    value = take ? candidate : value;
    tap = take ? candidate_tap : tap;
  }

  template <class T>
  ZF_HOST_DEVICE T result() const {
    return static_cast<T>(tap < 0 ? -std::numeric_limits<C>::infinity() : value);
  }
};

// contiguous, K x K windows: a thread pools V neighbouring outputs of a row. The V * Stride inputs
// per tap row that belong to it alone come in packs of A (the caller has checked alignment, and
// that there is no padding on the left unless A is 1), so a warp reads its rows in full lines; the
// K - Stride inputs it shares with its neighbour come from the cache.
template <class T, int K, int Stride, int V, int A>
struct MaxPoolRow {
  using C = Compute<T>;
  using Index = int32_t;
  MaxPoolParams p;
  Divisor<Index> groups, height;  // of a row's outputs; of the output
  bool packed_store;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const PoolShape& s = p.shape;
    const Geometry<K, Stride, Index> window(s.window);
    const Index out_w = s.out_w, in_w = s.in_w;
    const auto [row, group] = groups.split(i);
    const auto [plane, oy] = height.split(row);
    const Index ox = group * V;
    const auto rows = window.rows.inside(oy, s.in_h);
    const Index top = window.rows.coordinate(oy, 0), left = window.cols.coordinate(ox, 0);
    const T* x =
        static_cast<const T*>(p.x) + (plane * static_cast<Index>(s.in_h) + top) * in_w + left;
    Best<C> best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      const auto cols = window.cols.inside(ox + v, in_w);
      best[v] = Best<C>::template start<Index>(p.relu, rows, cols, K);
    }
    ZF_UNROLL
    for (int ky = 0; ky < K; ++ky) {
      if (ky < rows.begin || ky >= rows.end) continue;
      C values[span];
      read(x + ky * in_w, left, in_w, values);
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        ZF_UNROLL
        for (int kx = 0; kx < K; ++kx) best[v].meet(values[v * Stride + kx], ky * K + kx);
      }
    }
    store(row * out_w + ox, out_w - ox, best);
  }

 private:
  static constexpr int span = (V - 1) * Stride + K;

  // The columns that the thread's windows cover of one input row; -inf for those off the map.
  ZF_HOST_DEVICE static void read(const T* from, Index left, Index in_w, C (&values)[span]) {
    if (left >= 0 && left + span <= in_w) {
      ZF_UNROLL
      for (int j = 0; j < V * Stride; j += A) {
        const auto pack = load_pack<A>(from + j);
        ZF_UNROLL
        for (int a = 0; a < A; ++a) values[j + a] = widen(pack.lane[a]);
      }
      ZF_UNROLL
      for (int j = V * Stride; j < span; ++j) values[j] = widen(from[j]);
      return;
    }
    ZF_UNROLL
    for (int j = 0; j < span; ++j) {
      const bool inside = left + j >= 0 && left + j < in_w;
      values[j] = inside ? widen(from[j]) : -std::numeric_limits<C>::infinity();
    }
  }

  ZF_HOST_DEVICE void store(Index out, Index room, const Best<C> (&best)[V]) const {
    Pack<T, V> y;
    Pack<uint8_t, V> taps;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      y.lane[v] = best[v].template result<T>();
      taps.lane[v] = static_cast<uint8_t>(best[v].tap);
    }
    if (packed_store) {
      store_pack(static_cast<T*>(p.y) + out, y);
      store_pack(static_cast<uint8_t*>(p.switches) + out, taps);
      return;
    }
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      if (v >= room) continue;
      static_cast<T*>(p.y)[out + v] = y.lane[v];
      static_cast<uint8_t*>(p.switches)[out + v] = taps.lane[v];
    }
  }
};

// channels_last: a thread pools V channels of one output pixel; every access is V * sizeof(T)
// bytes. Windows are K x K at stride 2, or of any kind with K = 0.
template <class T, int K, int V, class Index>
struct MaxPoolPixel {
  MaxPoolParams p;
  Divisor<Index> groups, width, height;  // of the channels; of the output

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const PoolShape& s = p.shape;
    const Geometry<K, 2, Index> window(s.window);
    const Index channels = s.channels;
    const auto [pixel, group] = groups.split(i);
    const auto [line, ox] = width.split(pixel);
    const auto [n, oy] = height.split(line);
    const Index c = group * V;
    const auto rows = window.rows.inside(oy, s.in_h), cols = window.cols.inside(ox, s.in_w);
    const T* x = static_cast<const T*>(p.x) +
                 n * static_cast<Index>(s.in_h) * static_cast<Index>(s.in_w) * channels + c;
    Best<C> best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v)
      best[v] = Best<C>::template start<Index>(p.relu, rows, cols, window.cols.kernel());
    const auto tap = [&](Index ky, Index kx) {
      const Index row = window.rows.coordinate(oy, ky), col = window.cols.coordinate(ox, kx);
      return load_pack<V>(x + (row * static_cast<Index>(s.in_w) + col) * channels);
    };
    const auto meet = [&](const Pack<T, V>& pack, Index ky, Index kx) {
      const auto code = static_cast<int32_t>(window.tap(ky, kx));
      ZF_UNROLL
      for (int v = 0; v < V; ++v) best[v].meet(widen(pack.lane[v]), code);
    };
    if constexpr (K > 0) {
      // A row's taps are loaded before the first is looked at: they are under way together.
      ZF_UNROLL
      for (int ky = 0; ky < K; ++ky) {
        Pack<T, V> packs[K] = {};
        ZF_UNROLL
        for (int kx = 0; kx < K; ++kx)
          if (rows.holds(ky) && cols.holds(kx)) packs[kx] = tap(ky, kx);
        ZF_UNROLL
        for (int kx = 0; kx < K; ++kx)
          if (rows.holds(ky) && cols.holds(kx)) meet(packs[kx], ky, kx);
      }
    } else {
      for (Index ky = rows.begin; ky < rows.end; ++ky)
        for (Index kx = cols.begin; kx < cols.end; ++kx) meet(tap(ky, kx), ky, kx);
    }
    Pack<T, V> y;
    Pack<Tap<K>, V> taps;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      y.lane[v] = best[v].template result<T>();
      taps.lane[v] = static_cast<Tap<K>>(best[v].tap);
    }
    const Index out = pixel * channels + c;
    store_pack(static_cast<T*>(p.y) + out, y);
    store_taps<K>(p.switches, out, taps, s.wide_switches);
  }
};

template <class T, int K>
int pool_rows(const MaxPoolParams& p, const Launch& launch) {
  constexpr int stride = 2, wide = 16 / sizeof(T), V = wide / stride;
  const PoolShape& s = p.shape;
  const bool packed_store = s.out_w % V == 0 && aligned(p.y, 0) && aligned(p.switches, 0, V);
  const int64_t groups = (s.out_w + V - 1) / V;
  const auto run = [&]<int A>() {
    return launch(MaxPoolRow<T, K, stride, V, A>{p, Divisor<int32_t>(groups),
                                                 Divisor<int32_t>(s.out_h), packed_store},
                  static_cast<int32_t>(s.batch * s.channels * s.out_h * groups));
  };
  const int64_t row_bytes = s.in_w * sizeof(T);
  if (s.window.padding_w > 0) return run.template operator()<1>();
  if (aligned(p.x, row_bytes)) return run.template operator()<wide>();
  // Maps of 110, 54 or 26 columns: no 16-byte rows, but pairs.
  if (aligned(p.x, row_bytes, 2 * sizeof(T))) return run.template operator()<2>();
  return run.template operator()<1>();
}

template <class T, int K, int V, class Index>
int pool_pixels(const MaxPoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  const int64_t groups = s.channels / V;
  return launch(MaxPoolPixel<T, K, V, Index>{p, Divisor<Index>(groups), Divisor<Index>(s.out_w),
                                             Divisor<Index>(s.out_h)},
                static_cast<Index>(s.batch * s.out_h * s.out_w * groups));
}

int max_pool2d(const MaxPoolParams& p, Stream stream) {
  const Launch launch{stream};
  const PoolShape& s = p.shape;
  return with_dtype(s.dtype, [&]<class T>(T) {
    if (!fits_int32(s)) return pool_pixels<T, 0, 1, int64_t>(of_pixels(p), launch);
    return with_kernel_size(s.window, [&]<int K>(std::integral_constant<int, K>) {
      if constexpr (K > 0) {
        if (!s.channels_last) return pool_rows<T, K>(p, launch);
      }
      constexpr int wide = 16 / sizeof(T);
      const bool packed =
          s.channels_last && aligned(p.x, s.channels * sizeof(T)) && aligned(p.y, 0);
      return packed ? pool_pixels<T, K, wide, int32_t>(p, launch)
                    : pool_pixels<T, K, 1, int32_t>(of_pixels(p), launch);
    });
  });
}

}  // namespace zfcuda::cuda
