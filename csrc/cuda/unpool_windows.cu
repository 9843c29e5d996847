#include "core/dispatch.h"
#include "core/pooling.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

// Pooling windows are K x K at stride 2, or of any kind with K = 0.
template <class T, int K, int V, class Index>
struct UnpoolWindowPixel {
  static constexpr bool many_registers = true;
  UnpoolWindowsParams p;

  // Coordinates are int64 also where indices are not: a window may lie anywhere.
  ZF_HOST_DEVICE void operator()(Index i) const {
    const WindowsParams& m = p.map;
    const auto at = WindowPixel<Index>::of(m, i, V);
    if (!at.exists) return;
    Compute<T> sum[V] = {};
    if constexpr (K > 0) {
      send_known(at, sum);
    } else {
      send_any(at, sum);
    }
    Pack<T, V> out;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) out.lane[v] = static_cast<T>(p.relu ? rectified(sum[v]) : sum[v]);
    store_pack(static_cast<T*>(m.out) + at.out * static_cast<Index>(m.channels) + at.channel, out);
  }

 private:
  // What a pooling window sends to the pixel, and through which tap; nothing where it is not
  // `there`, zero off the patch.
  struct Sent {
    bool there = false;
    Tap<K> tap = 0;
    Pack<Tap<K>, V> taps{};
    Pack<T, V> values{};

    ZF_HOST_DEVICE void add_to(Compute<T> (&sum)[V], bool overwrite) const {
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        const Compute<T> value = widen(values.lane[v]);
        if (there && taps.lane[v] == tap) sum[v] = overwrite ? value : sum[v] + value;
      }
    }
  };

  ZF_HOST_DEVICE Sent sent(const WindowPixel<Index>& at, int64_t oy, int64_t ox,
                           int64_t tap) const {
    const WindowsParams& m = p.map;
    const bool patched = at.row.buffer >= 0 && at.row.patch.contains(oy, ox);
    Sent found{patched || p.overwrite, static_cast<Tap<K>>(tap)};
    const auto pixel = static_cast<Index>((at.row.image * m.height + oy) * m.width + ox);
    if (found.there)
      found.taps = load_taps<K, V>(m.base, pixel * static_cast<Index>(m.channels) + at.channel,
                                   p.wide_switches);
    if (patched) found.values = load_pack<V>(pixel_at<T, Index>(m, at.row, oy, ox) + at.channel);
    return found;
  }

  // All windows over the pixel are loaded before the first is looked at.
  ZF_HOST_DEVICE void send_known(const WindowPixel<Index>& at, Compute<T> (&sum)[V]) const {
    constexpr int most = (K + 1) / 2;
    const Geometry<K, 2, int64_t> window(p.window);
    const auto rows = window.rows.over(at.y, p.map.height),
               cols = window.cols.over(at.x, p.map.width);
    Sent found[most * most];
    ZF_UNROLL
    for (int n = 0; n < most * most; ++n) {
      const int64_t oy = rows.begin + n / most, ox = cols.begin + n % most;
      const int64_t ky = window.rows.tap(at.y, oy), kx = window.cols.tap(at.x, ox);
      if (oy < rows.end && ox < cols.end) found[n] = sent(at, oy, ox, window.tap(ky, kx));
    }
    ZF_UNROLL
    for (int n = 0; n < most * most; ++n) found[n].add_to(sum, p.overwrite);
  }

  ZF_HOST_DEVICE void send_any(const WindowPixel<Index>& at, Compute<T> (&sum)[V]) const {
    const Geometry<0, 0, int64_t> window(p.window);
    const auto rows = window.rows.over(at.y, p.map.height),
               cols = window.cols.over(at.x, p.map.width);
    for (int64_t oy = rows.begin; oy < rows.end; ++oy) {
      const int64_t ky = window.rows.tap(at.y, oy);
      if (ky < 0) continue;
      for (int64_t ox = cols.begin; ox < cols.end; ++ox) {
        const int64_t kx = window.cols.tap(at.x, ox);
        if (kx < 0) continue;
        sent(at, oy, ox, window.tap(ky, kx)).add_to(sum, p.overwrite);
      }
    }
  }
};

int unpool_windows(const UnpoolWindowsParams& given, Stream stream) {
  return with_dtype(given.map.dtype, [&]<class T>(T) {
    constexpr int wide = 16 / sizeof(T);
    const bool packed = aligned(given.map.base, 0, wide * (given.wide_switches ? 4 : 1));
    return with_kernel_size(given.window, [&]<int K>(std::integral_constant<int, K>) {
      return launch_over_windows<T>(given, packed, Launch{stream},
                                    [&]<int V, class Index>(const UnpoolWindowsParams& p) {
                                      constexpr int known = sizeof(Index) == 4 ? K : 0;
                                      return UnpoolWindowPixel<T, known, V, Index>{p};
                                    });
    });
  });
}

}  // namespace zfcuda::cuda
