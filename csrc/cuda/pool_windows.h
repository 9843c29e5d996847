#pragma once

#include <limits>

#include "common/dispatch.h"
#include "core/pooling.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

template <class T, int V, class Index>
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
    const auto rows =
        taps_inside(at.y, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, m.height);
    const auto cols = taps_inside(at.x, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, m.width);
    const int64_t top = at.y * w.stride_h - w.padding_h, left = at.x * w.stride_w - w.padding_w;
    const bool any = rows.begin < rows.end && cols.begin < cols.end;
    const C lowest = p.relu && any ? C(0) : -std::numeric_limits<C>::infinity();
    C best[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) best[v] = lowest;
    for (int64_t ky = rows.begin; ky < rows.end; ++ky) {
      for (int64_t kx = cols.begin; kx < cols.end; ++kx) {
        const auto pack = load_pack<V>(
            pixel_at<T, Index>(m, at.row, top + ky * w.dilation_h, left + kx * w.dilation_w) +
            at.channel);
        ZF_UNROLL
        for (int v = 0; v < V; ++v) {
          const C value = widen(pack.lane[v]);
          best[v] = replaces(value, best[v]) ? value : best[v];
        }
      }
    }
    Pack<T, V> out;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) out.lane[v] = static_cast<T>(best[v]);
    store_pack(static_cast<T*>(m.out) + at.out * static_cast<Index>(m.channels) + at.channel, out);
  }
};

template <class Launch>
int run_pool_windows(PoolWindowsParams p, const Launch& launch) {
  int status = 0;
  with_dtype(p.map.dtype, [&]<class T>(T) {
    status = run_over_windows<T>(p.map, aligned(p.map.base, 0), [&]<int V, class Index>() {
      return launch_over_windows<V, Index>(PoolWindowPixel<T, V, Index>{p}, p.map, launch);
    });
  });
  return status;
}

}  // namespace zfcuda::cuda
