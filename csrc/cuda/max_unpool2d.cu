#include <type_traits>

#include "core/dispatch.h"
#include "core/divisor.h"
#include "core/scalar.h"
#include "core/unpooling.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// contiguous, K x K windows at Stride in both directions: a thread writes Pieces times V
// neighbouring outputs of a row, S in a store, and reads each window that can send to them once.
// Phase is padding_w % Stride: with it, which tap of which window lies on which output is known at
// compile time. A thread's pieces are as far apart as a row has threads, so that what neighbouring
// threads store lies side by side: where rows allow narrow stores only, several of them share the
// work of finding their place.
template <class T, int K, int Stride, int Phase, bool Overwrite, int V, int S, int Pieces>
struct MaxUnpoolRow {
  using Index = int32_t;
  static constexpr bool many_registers = Pieces > 1;

  MaxUnpoolParams p;
  Divisor<Index> threads, height;  // of a row; of the output

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    using Unsigned = std::make_unsigned_t<Index>;
    static_assert(V % Stride == 0 && (S == V || S == 1));
    const PoolShape& s = p.shape;
    const Geometry<K, Stride, Index> window(s.window);
    const Index in_w = s.in_w, out_h = s.out_h, out_w = s.out_w;
    const auto [line, thread] = threads.split(i);
    const auto [plane, row] = height.split(line);
    // The first window is the one `back` steps before the window that starts at or before the first
    // output.
    constexpr int back = (K - 1 - Phase) / Stride;
    constexpr int windows = back + (V - 1 + Phase) / Stride + 1;
    const Index first = (thread * V + window.cols.padding) / Stride - back;
    const Index apart = threads.by * V;
    const auto rows = window.rows.over(row, out_h);
    C sum[Pieces][V] = {};
    for (Index oy = rows.begin; oy < rows.end; ++oy) {
      const auto first_tap = static_cast<int>(window.tap(window.rows.tap(row, oy), 0));
      const Index start = (plane * out_h + oy) * out_w;
      // All loads first, without a branch: they are under way together.
      int tap[Pieces][windows];
      C value[Pieces][windows];
      const auto each_window = [&](const auto& act) {
        ZF_UNROLL
        for (int piece = 0; piece < Pieces; ++piece) {
          ZF_UNROLL
          for (int j = 0; j < windows; ++j) {
            const Index ox = first + piece * (apart / Stride) + j;
            act(piece, j, start + ox, static_cast<Unsigned>(ox) < static_cast<Unsigned>(out_w));
          }
        }
      };
      each_window([&](int piece, int j, Index at, bool there) {
        const auto* switches = static_cast<const uint8_t*>(p.switches);
        tap[piece][j] = there ? static_cast<int>(switches[at]) : -1;
        value[piece][j] = there ? widen(static_cast<const T*>(p.y)[at]) : C(0);
      });
      if (p.gate) {
        each_window([&](int piece, int j, Index at, bool there) {
          const C gate = there ? widen(static_cast<const T*>(p.gate)[at]) : C(0);
          value[piece][j] = gated(value[piece][j], gate);
        });
      }
      each_window([&](int piece, int j, Index, bool) {
        ZF_UNROLL
        for (int v = 0; v < V; ++v) {
          const int kx = v + Phase - (j - back) * Stride;
          if (kx < 0 || kx >= K || tap[piece][j] != first_tap + kx) continue;
          C& own = sum[piece][v];
          own = Overwrite ? value[piece][j] : own + value[piece][j];
        }
      });
    }
    ZF_UNROLL
    for (int piece = 0; piece < Pieces; ++piece) {
      const Index col = thread * V + piece * apart;
      if (Pieces > 1 && col >= in_w) break;
      Pack<T, V> out;
      ZF_UNROLL
      for (int v = 0; v < V; ++v)
        out.lane[v] = static_cast<T>(p.relu ? rectified(sum[piece][v]) : sum[piece][v]);
      T* x = static_cast<T*>(p.x) + line * in_w + col;
      if constexpr (S == V) {
        store_pack(x, out);
      } else {
        ZF_UNROLL
        for (int v = 0; v < V; ++v)
          if (col + v < in_w) x[v] = out.lane[v];
      }
    }
  }
};

// channels_last: a thread writes V channels of one pixel; its windows are the same for all of them.
// They are K x K at stride 2, or of any kind with K = 0.
template <class T, int K, int V, class Index>
struct MaxUnpoolPixel {
  MaxUnpoolParams p;
  Divisor<Index> groups, width, height;  // of the channels; of the output

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const PoolShape& s = p.shape;
    const Geometry<K, 2, Index> window(s.window);
    const Index channels = s.channels, out_w = s.out_w;
    const auto [pixel, group] = groups.split(i);
    const auto [line, col] = width.split(pixel);
    const auto [n, row] = height.split(line);
    const Index c = group * V;
    const auto rows = window.rows.over(row, s.out_h), cols = window.cols.over(col, out_w);
    C sum[V] = {};
    for (Index oy = rows.begin; oy < rows.end; ++oy) {
      const Index ky = window.rows.tap(row, oy);
      if (ky < 0) continue;
      for (Index ox = cols.begin; ox < cols.end; ++ox) {
        const Index kx = window.cols.tap(col, ox);
        if (kx < 0) continue;
        const Index at = ((n * static_cast<Index>(s.out_h) + oy) * out_w + ox) * channels + c;
        const auto tap = static_cast<Tap<K>>(window.tap(ky, kx));
        const auto taps = load_taps<K, V>(p.switches, at, s.wide_switches);
        const auto values = load_pack<V>(static_cast<const T*>(p.y) + at);
        Pack<T, V> gates = values;
        if (p.gate) gates = load_pack<V>(static_cast<const T*>(p.gate) + at);
        ZF_UNROLL
        for (int v = 0; v < V; ++v) {
          C value = widen(values.lane[v]);
          if (p.gate) value = gated(value, widen(gates.lane[v]));
          if (taps.lane[v] == tap) sum[v] = p.overwrite ? value : sum[v] + value;
        }
      }
    }
    Pack<T, V> out;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) out.lane[v] = static_cast<T>(p.relu ? rectified(sum[v]) : sum[v]);
    store_pack(static_cast<T*>(p.x) + pixel * channels + c, out);
  }
};

template <class T, class Index>
struct MaxUnpoolBackwardElement {
  MaxUnpoolBackwardParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const PoolShape& s = p.shape;
    const Index out_w = s.out_w, out_h = s.out_h, channels = s.channels;
    // Neighbouring threads take neighbouring memory, whichever the layout.
    const Index c = s.channels_last ? i % channels : i / out_w / out_h % channels;
    const Index place = s.channels_last ? i / channels : i;
    const Index ox = place % out_w, oy = place / out_w % out_h;
    const Index n = i / out_w / out_h / channels;
    static_cast<T*>(p.grad_y)[i] = unpool_backward_at<T, Index>(p, n, c, oy, ox);
  }
};

template <class T, int K, int V, int S, int Pieces>
int unpool_rows_by(const MaxUnpoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  const int64_t outputs = int64_t{V} * Pieces, a_row = (s.in_w + outputs - 1) / outputs;
  const Divisor<int32_t> threads(a_row), height(s.in_h);
  const auto count = static_cast<int32_t>(s.batch * s.channels * s.in_h * a_row);
  const auto run = [&]<int Phase, bool Overwrite>() {
    return launch(MaxUnpoolRow<T, K, 2, Phase, Overwrite, V, S, Pieces>{p, threads, height}, count);
  };
  if (s.window.padding_w % 2 == 0)
    return p.overwrite ? run.template operator()<0, true>() : run.template operator()<0, false>();
  return p.overwrite ? run.template operator()<1, true>() : run.template operator()<1, false>();
}

template <class T, int K>
int unpool_rows(const MaxUnpoolParams& p, const Launch& launch) {
  constexpr int wide = 16 / sizeof(T);
  const int64_t row_bytes = p.shape.in_w * sizeof(T);
  if (aligned(p.x, row_bytes)) return unpool_rows_by<T, K, wide, wide, 1>(p, launch);
  // Maps of 110, 54 or 26 columns: no 16-byte rows, but pairs. Of 55, 27 or 13: not even those.
  if constexpr (wide > 2) {
    if (aligned(p.x, row_bytes, 2 * sizeof(T))) return unpool_rows_by<T, K, 2, 2, 4>(p, launch);
  }
  return unpool_rows_by<T, K, 2, 1, 4>(p, launch);
}

template <class T, int K, int V, class Index>
int unpool_pixels(const MaxUnpoolParams& p, const Launch& launch) {
  const PoolShape& s = p.shape;
  const int64_t groups = s.channels / V;
  return launch(MaxUnpoolPixel<T, K, V, Index>{p, Divisor<Index>(groups), Divisor<Index>(s.in_w),
                                               Divisor<Index>(s.in_h)},
                static_cast<Index>(s.batch * s.in_h * s.in_w * groups));
}

int max_unpool2d(const MaxUnpoolParams& p, Stream stream) {
  const Launch launch{stream};
  const PoolShape& s = p.shape;
  return with_dtype(s.dtype, [&]<class T>(T) {
    if (!fits_int32(s)) return unpool_pixels<T, 0, 1, int64_t>(of_pixels(p), launch);
    return with_kernel_size(s.window, [&]<int K>(std::integral_constant<int, K>) {
      if constexpr (K > 0) {
        if (!s.channels_last) return unpool_rows<T, K>(p, launch);
      }
      constexpr int wide = 16 / sizeof(T);
      const bool packed = s.channels_last && aligned(p.y, s.channels * sizeof(T)) &&
                          aligned(p.x, 0) && aligned(p.gate, 0) &&
                          aligned(p.switches, 0, wide * (s.wide_switches ? 4 : 1));
      return packed ? unpool_pixels<T, K, wide, int32_t>(p, launch)
                    : unpool_pixels<T, K, 1, int32_t>(of_pixels(p), launch);
    });
  });
}

int max_unpool2d_backward(const MaxUnpoolBackwardParams& p, Stream stream) {
  const PoolShape& s = p.shape;
  const int64_t count = s.batch * s.channels * s.out_h * s.out_w;
  return with_dtype(s.dtype, [&]<class T>(T) {
    return with_index(fits_int32(s), [&]<class Index>(Index) {
      return Launch{stream}(MaxUnpoolBackwardElement<T, Index>{p}, static_cast<Index>(count));
    });
  });
}

}  // namespace zfcuda::cuda
