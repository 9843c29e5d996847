#pragma once

#include "common/dispatch.h"
#include "core/pooling.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

template <class T, class Switch, int V, class Index>
struct UnpoolWindowPixel {
  static constexpr bool many_registers = true;
  UnpoolWindowsParams p;

  // Coordinates are int64 also where indices are not: a window may lie anywhere.
  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const WindowsParams& m = p.map;
    const PoolWindow& w = p.window;
    const auto at = WindowPixel<Index>::of(m, i, V);
    if (!at.exists) return;
    const auto rows =
        windows_over(at.y, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, m.height);
    const auto cols =
        windows_over(at.x, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, m.width);
    C sum[V] = {};
    for (int64_t oy = rows.begin; oy < rows.end; ++oy) {
      const int64_t ky = tap_on(at.y, oy, w.stride_h, w.padding_h, w.dilation_h);
      if (ky < 0) continue;
      for (int64_t ox = cols.begin; ox < cols.end; ++ox) {
        const int64_t kx = tap_on(at.x, ox, w.stride_w, w.padding_w, w.dilation_w);
        if (kx >= 0) send(at, oy, ox, static_cast<Switch>(ky * w.kernel_w + kx), sum);
      }
    }
    Pack<T, V> out;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) out.lane[v] = static_cast<T>(p.relu ? rectified(sum[v]) : sum[v]);
    store_pack(static_cast<T*>(m.out) + at.out * static_cast<Index>(m.channels) + at.channel, out);
  }

 private:
  // What pooling window (oy, ox) sends through its tap `tap`; zero off the patch.
  ZF_HOST_DEVICE void send(const WindowPixel<Index>& at, int64_t oy, int64_t ox, Switch tap,
                           Compute<T> (&sum)[V]) const {
    const WindowsParams& m = p.map;
    const bool patched = at.row.buffer >= 0 && at.row.patch.contains(oy, ox);
    if (!patched && !p.overwrite) return;
    const auto pixel = static_cast<Index>((at.row.image * m.height + oy) * m.width + ox);
    const auto taps = load_pack<V>(static_cast<const Switch*>(m.base) +
                                   pixel * static_cast<Index>(m.channels) + at.channel);
    Pack<T, V> values{};
    if (patched) values = load_pack<V>(pixel_at<T, Index>(m, at.row, oy, ox) + at.channel);
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      const Compute<T> value = widen(values.lane[v]);
      if (taps.lane[v] == tap) sum[v] = p.overwrite ? value : sum[v] + value;
    }
  }
};

template <class Launch>
int run_unpool_windows(UnpoolWindowsParams p, const Launch& launch) {
  int status = 0;
  with_dtype(p.map.dtype, [&]<class T>(T) {
    with_switch_type(p.wide_switches, [&]<class Switch>(Switch) {
      constexpr int64_t pack_bytes = 16 / sizeof(T) * sizeof(Switch);
      const bool packed = aligned(p.map.base, 0, pack_bytes);
      status = run_over_windows<T>(p.map, packed, [&]<int V, class Index>() {
        return launch_over_windows<V, Index>(UnpoolWindowPixel<T, Switch, V, Index>{p}, p.map,
                                             launch);
      });
    });
  });
  return status;
}

}  // namespace zfcuda::cuda
