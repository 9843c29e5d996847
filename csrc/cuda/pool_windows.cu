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
    const PoolWindow& w = p.window;
    const auto at = WindowPixel<Index>::of(m, i, V);
    if (!at.exists) return;
    const int64_t kernel_h = K > 0 ? K : w.kernel_h, kernel_w = K > 0 ? K : w.kernel_w;
    const int64_t stride_h = K > 0 ? 2 : w.stride_h, stride_w = K > 0 ? 2 : w.stride_w;
    const int64_t dilation_h = K > 0 ? 1 : w.dilation_h, dilation_w = K > 0 ? 1 : w.dilation_w;
    const auto rows = taps_inside(at.y, kernel_h, stride_h, w.padding_h, dilation_h, m.height);
    const auto cols = taps_inside(at.x, kernel_w, stride_w, w.padding_w, dilation_w, m.width);
    const int64_t top = at.y * stride_h - w.padding_h, left = at.x * stride_w - w.padding_w;
    const bool any = rows.begin < rows.end && cols.begin < cols.end;
    const C lowest = p.relu && any ? C(0) : -std::numeric_limits<C>::infinity();
    C best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) best[v] = lowest;
    const auto tap = [&](int64_t ky, int64_t kx) {
      return load_pack<V>(
          pixel_at<T, Index>(m, at.row, top + ky * dilation_h, left + kx * dilation_w) +
          at.channel);
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
  PoolWindowsParams p = given;
  return with_dtype(p.map.dtype, [&]<class T>(T) {
    return run_over_windows<T>(p.map, aligned(p.map.base, 0), [&]<int V, class Index>() {
      return with_kernel<Index, uint8_t>(p.window, [&]<int K>() {
        return launch_over_windows<V, Index>(PoolWindowPixel<T, K, V, Index>{p}, p.map,
                                             Launch{stream});
      });
    });
  });
}

}  // namespace zfcuda::cuda
