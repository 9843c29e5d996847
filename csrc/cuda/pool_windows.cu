#include <limits>

#include "core/dispatch.h"
#include "core/pooling.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

// Pooling windows are K x K at stride 2, or of any kind with K = 0.
template <class T, int K, int V, class Index>
struct PoolWindowPixel {
  static constexpr bool many_registers = true;
  PoolWindowsParams p;

  // Coordinates are int64 also where indices are not: a window may lie anywhere.
  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const WindowsParams& m = p.map;
    const Geometry<K, 2, int64_t> window(p.window);
    const auto at = WindowPixel<Index>::of(m, i, V);
    if (!at.exists) return;
    const auto rows = window.rows.inside(at.y, m.height), cols = window.cols.inside(at.x, m.width);
    const bool any = rows.begin < rows.end && cols.begin < cols.end;
    const C lowest = p.relu && any ? C(0) : -std::numeric_limits<C>::infinity();
    C best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) best[v] = lowest;
    const auto tap = [&](int64_t ky, int64_t kx) {
      const int64_t row = window.rows.coordinate(at.y, ky), col = window.cols.coordinate(at.x, kx);
      return load_pack<V>(pixel_at<T, Index>(m, at.row, row, col) + at.channel);
    };
    const auto offer = [&](const Pack<T, V>& pack) {
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        const C value = widen(pack.lane[v]);
        best[v] = replaces(value, best[v]) ? value : best[v];
      }
    };
    if constexpr (K > 0) {
      // A row's taps are loaded before the first is looked at.
      ZF_UNROLL
      for (int ky = 0; ky < K; ++ky) {
        Pack<T, V> packs[K] = {};
        ZF_UNROLL
        for (int kx = 0; kx < K; ++kx)
          if (rows.holds(ky) && cols.holds(kx)) packs[kx] = tap(ky, kx);
        ZF_UNROLL
        for (int kx = 0; kx < K; ++kx)
          if (rows.holds(ky) && cols.holds(kx)) offer(packs[kx]);
      }
    } else {
      for (int64_t ky = rows.begin; ky < rows.end; ++ky)
        for (int64_t kx = cols.begin; kx < cols.end; ++kx) offer(tap(ky, kx));
    }
    Pack<T, V> out;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) out.lane[v] = static_cast<T>(best[v]);
    store_pack(static_cast<T*>(m.out) + at.out * static_cast<Index>(m.channels) + at.channel, out);
  }
};

int pool_windows(const PoolWindowsParams& given, Stream stream) {
  return with_dtype(given.map.dtype, [&]<class T>(T) {
    return with_kernel_size(given.window, [&]<int K>(std::integral_constant<int, K>) {
      return launch_over_windows<T>(given, aligned(given.map.base, 0), Launch{stream},
                                    [&]<int V, class Index>(const PoolWindowsParams& p) {
                                      constexpr int known = sizeof(Index) == 4 ? K : 0;
                                      return PoolWindowPixel<T, known, V, Index>{p};
                                    });
    });
  });
}

}  // namespace zfcuda::cuda
