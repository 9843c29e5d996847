#include "core/dispatch.h"
#include "core/pooling.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

// Pooling windows are K x K at stride 2, or of any kind with K = 0.
template <class T, class Switch, int K, int V, class Index>
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
    Switch tap{};
    Pack<Switch, V> taps{};
    Pack<T, V> values{};

    ZF_HOST_DEVICE void add_to(Compute<T> (&sum)[V], bool overwrite) const {
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        const Compute<T> value = widen(values.lane[v]);
        if (there && taps.lane[v] == tap) sum[v] = overwrite ? value : sum[v] + value;
      }
    }
  };

  ZF_HOST_DEVICE Sent sent(const WindowPixel<Index>& at, int64_t oy, int64_t ox, Switch tap) const {
    const WindowsParams& m = p.map;
    const bool patched = at.row.buffer >= 0 && at.row.patch.contains(oy, ox);
    Sent found{patched || p.overwrite, tap};
    const auto pixel = static_cast<Index>((at.row.image * m.height + oy) * m.width + ox);
    if (found.there)
      found.taps = load_pack<V>(static_cast<const Switch*>(m.base) +
                                pixel * static_cast<Index>(m.channels) + at.channel);
    if (patched) found.values = load_pack<V>(pixel_at<T, Index>(m, at.row, oy, ox) + at.channel);
    return found;
  }

  // All windows over the pixel are loaded before the first is looked at.
  ZF_HOST_DEVICE void send_known(const WindowPixel<Index>& at, Compute<T> (&sum)[V]) const {
    constexpr int most = (K + 1) / 2;
    const PoolWindow& w = p.window;
    const auto rows = windows_over<int64_t>(at.y, K, 2, w.padding_h, 1, p.map.height);
    const auto cols = windows_over<int64_t>(at.x, K, 2, w.padding_w, 1, p.map.width);
    Sent found[most * most];
    ZF_UNROLL
    for (int n = 0; n < most * most; ++n) {
      const int64_t oy = rows.begin + n / most, ox = cols.begin + n % most;
      const int64_t ky = tap_on<int64_t>(at.y, oy, 2, w.padding_h, 1),
                    kx = tap_on<int64_t>(at.x, ox, 2, w.padding_w, 1);
      if (oy < rows.end && ox < cols.end)
        found[n] = sent(at, oy, ox, static_cast<Switch>(ky * K + kx));
    }
    ZF_UNROLL
    for (int n = 0; n < most * most; ++n) found[n].add_to(sum, p.overwrite);
  }

  ZF_HOST_DEVICE void send_any(const WindowPixel<Index>& at, Compute<T> (&sum)[V]) const {
    const PoolWindow& w = p.window;
    const auto rows =
        windows_over(at.y, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, p.map.height);
    const auto cols =
        windows_over(at.x, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, p.map.width);
    for (int64_t oy = rows.begin; oy < rows.end; ++oy) {
      const int64_t ky = tap_on(at.y, oy, w.stride_h, w.padding_h, w.dilation_h);
      if (ky < 0) continue;
      for (int64_t ox = cols.begin; ox < cols.end; ++ox) {
        const int64_t kx = tap_on(at.x, ox, w.stride_w, w.padding_w, w.dilation_w);
        if (kx < 0) continue;
        sent(at, oy, ox, static_cast<Switch>(ky * w.kernel_w + kx)).add_to(sum, p.overwrite);
      }
    }
  }
};

int unpool_windows(const UnpoolWindowsParams& given, Stream stream) {
  UnpoolWindowsParams p = given;
  return with_dtype(p.map.dtype, [&]<class T>(T) {
    return with_switch_type(p.wide_switches, [&]<class Switch>(Switch) {
      constexpr int64_t pack_bytes = 16 / sizeof(T) * sizeof(Switch);
      const bool packed = aligned(p.map.base, 0, pack_bytes);
      return run_over_windows<T>(p.map, packed, [&]<int V, class Index>() {
        return with_kernel<Index, Switch>(p.window, [&]<int K>() {
          return launch_over_windows<V, Index>(UnpoolWindowPixel<T, Switch, K, V, Index>{p}, p.map,
                                               Launch{stream});
        });
      });
    });
  });
}

}  // namespace zfcuda::cuda
