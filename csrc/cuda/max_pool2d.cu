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

// K x K windows at compile time unroll; K = 0 reads the size at run time.
template <int K>
ZF_HOST_DEVICE int64_t size_or(int64_t size) {
  return K > 0 ? K : size;
}

// contiguous, K x K windows: a thread pools V neighbouring outputs of a row. The V * Stride inputs
// per tap row that belong to it alone come in packs of A (the caller has checked alignment, and
// that there is no padding on the left unless A is 1), so a warp reads its rows in full lines; the
// K - Stride inputs it shares with its neighbour come from the cache.
template <class T, class Switch, int K, int Stride, int V, int A, class Index>
struct MaxPoolRow {
  using C = Compute<T>;
  MaxPoolParams p;
  Divisor<Index> groups, height;  // of a row's outputs; of the output
  bool packed_store;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const PoolShape& s = p.shape;
    const PoolWindow& w = s.window;
    const Index out_w = s.out_w, in_w = s.in_w;
    const auto [row, group] = groups.split(i);
    const auto [plane, oy] = height.split(row);
    const Index ox = group * V;
    const auto rows = taps_inside<Index>(oy, K, w.stride_h, w.padding_h, 1, s.in_h);
    const Index top = oy * static_cast<Index>(w.stride_h) - static_cast<Index>(w.padding_h);
    const Index left = ox * Stride - static_cast<Index>(w.padding_w);
    const T* x =
        static_cast<const T*>(p.x) + (plane * static_cast<Index>(s.in_h) + top) * in_w + left;
    Best<C> best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      const auto cols = taps_inside<Index>(ox + v, K, Stride, w.padding_w, 1, in_w);
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
      if (v >= room) continue;
      static_cast<T*>(p.y)[out + v] = y.lane[v];
      static_cast<Switch*>(p.switches)[out + v] = taps.lane[v];
    }
  }
};

// contiguous, any window: a thread pools one output.
template <class T, class Switch, class Index>
struct MaxPoolElement {
  MaxPoolParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const PoolShape& s = p.shape;
    const PoolWindow& w = s.window;
    const Index out_w = s.out_w, out_h = s.out_h, in_w = s.in_w, kernel_w = w.kernel_w;
    const Index ox = i % out_w, oy = i / out_w % out_h, plane = i / out_w / out_h;
    const auto rows =
        taps_inside<Index>(oy, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.in_h);
    const auto cols = taps_inside<Index>(ox, kernel_w, w.stride_w, w.padding_w, w.dilation_w, in_w);
    const Index top = oy * static_cast<Index>(w.stride_h) - static_cast<Index>(w.padding_h);
    const Index left = ox * static_cast<Index>(w.stride_w) - static_cast<Index>(w.padding_w);
    const T* x =
        static_cast<const T*>(p.x) + (plane * static_cast<Index>(s.in_h) + top) * in_w + left;
    auto best = Best<Compute<T>>::template start<Index>(p.relu, rows, cols, kernel_w);
    for (Index ky = rows.begin; ky < rows.end; ++ky) {
      const T* from = x + ky * static_cast<Index>(w.dilation_h) * in_w;
      for (Index kx = cols.begin; kx < cols.end; ++kx) {
        best.meet(widen(from[kx * static_cast<Index>(w.dilation_w)]),
                  static_cast<int32_t>(ky * kernel_w + kx));
      }
    }
    static_cast<T*>(p.y)[i] = best.template result<T>();
    static_cast<Switch*>(p.switches)[i] = static_cast<Switch>(best.tap);
  }
};

// channels_last: a thread pools V channels of one output pixel; every access is V * sizeof(T)
// bytes.
template <class T, class Switch, int K, int V, class Index>
struct MaxPoolPixel {
  MaxPoolParams p;
  Divisor<Index> groups, width, height;  // of the channels; of the output

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const PoolShape& s = p.shape;
    const PoolWindow& w = s.window;
    const Index channels = s.channels;
    const Index kernel_h = size_or<K>(w.kernel_h), kernel_w = size_or<K>(w.kernel_w);
    const auto [pixel, group] = groups.split(i);
    const auto [line, ox] = width.split(pixel);
    const auto [n, oy] = height.split(line);
    const Index c = group * V;
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
    for (int v = 0; v < V; ++v)
      best[v] = Best<C>::template start<Index>(p.relu, rows, cols, kernel_w);
    const auto tap = [&](Index ky, Index kx) {
      const Index row = top + ky * static_cast<Index>(w.dilation_h),
                  col = left + kx * static_cast<Index>(w.dilation_w);
      return load_pack<V>(x + (row * static_cast<Index>(s.in_w) + col) * channels);
    };
    const auto meet = [&](const Pack<T, V>& pack, Index ky, Index kx) {
      const auto code = static_cast<int32_t>(ky * kernel_w + kx);
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

template <class T, class Switch, int K, int Stride, class Index>
int max_pool2d_sized(const MaxPoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  constexpr int wide = 16 / sizeof(T);
  if (s.channels_last) {
    const bool packed = aligned(p.x, s.channels * sizeof(T)) && aligned(p.y, 0);
    const auto run = [&]<int V>() {
      const int64_t groups = s.channels / V;
      return launch(
          MaxPoolPixel<T, Switch, K, V, Index>{p, Divisor<Index>(groups), Divisor<Index>(s.out_w),
                                               Divisor<Index>(s.out_h)},
          static_cast<Index>(s.batch * s.out_h * s.out_w * groups));
    };
    return packed ? run.template operator()<wide>() : run.template operator()<1>();
  }
  if constexpr (K == 0) {
    return launch(MaxPoolElement<T, Switch, Index>{p},
                  static_cast<Index>(s.batch * s.channels * s.out_h * s.out_w));
  } else {
    constexpr int V = wide / Stride;
    const bool packed_store =
        s.out_w % V == 0 && aligned(p.y, 0) && aligned(p.switches, 0, V * sizeof(Switch));
    const int64_t groups = (s.out_w + V - 1) / V;
    const auto run = [&]<int A>() {
      return launch(
          MaxPoolRow<T, Switch, K, Stride, V, A, Index>{p, Divisor<Index>(groups),
                                                        Divisor<Index>(s.out_h), packed_store},
          static_cast<Index>(s.batch * s.channels * s.out_h * groups));
    };
    const int64_t row_bytes = s.in_w * sizeof(T);
    if (s.window.padding_w > 0) return run.template operator()<1>();
    if (aligned(p.x, row_bytes)) return run.template operator()<wide>();
    // Maps of 110, 54 or 26 columns: no 16-byte rows, but pairs.
    if (aligned(p.x, row_bytes, 2 * sizeof(T))) return run.template operator()<2>();
    return run.template operator()<1>();
  }
}

template <class T, class Switch, class Index>
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

int max_pool2d(const MaxPoolParams& p, Stream stream) {
  const PoolShape& s = p.shape;
  return with_dtype(s.dtype, [&]<class T>(T) {
    return with_switch_type(s.wide_switches, [&]<class Switch>(Switch) {
      return with_index(fits_int32(s), [&]<class Index>(Index) {
        return max_pool2d_indexed<T, Switch, Index>(p, Launch{stream});
      });
    });
  });
}

}  // namespace zfcuda::cuda
