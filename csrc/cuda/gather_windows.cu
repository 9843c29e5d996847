#include "core/dispatch.h"
#include "cuda/windows.h"

namespace zfcuda::cuda {

template <class T, bool Add, int V, class Index>
struct GatherWindowPixel {
  GatherWindowsParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const WindowsParams& m = p.map;
    const auto at = WindowPixel<Index>::of(m, i, V);
    if (!at.exists) return;
    const T* source = pixel_at<T, Index>(m, at.row, at.y, at.x);
    Pack<T, V> value;
    if (source) {
      value = load_pack<V>(source + at.channel);
    } else {
      ZF_UNROLL
      for (int v = 0; v < V; ++v) value.lane[v] = static_cast<T>(p.outside);
    }
    T* out = static_cast<T*>(m.out) + at.out * static_cast<Index>(m.out_channels) +
             static_cast<Index>(p.channel) + at.channel;
    if constexpr (Add) {
      const auto before = load_pack<V>(out);
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        value.lane[v] = static_cast<T>(widen(before.lane[v]) + widen(value.lane[v]));
      }
    }
    store_pack(out, value);
  }
};

int gather_windows(const GatherWindowsParams& given, Stream stream) {
  return with_dtype(given.map.dtype, [&]<class T>(T) {
    const bool packed = aligned(given.map.base, given.channel * static_cast<int64_t>(sizeof(T)));
    const auto run = [&]<bool Add>() {
      return launch_over_windows<T>(given, packed, Launch{stream},
                                    [&]<int V, class Index>(const GatherWindowsParams& p) {
                                      return GatherWindowPixel<T, Add, V, Index>{p};
                                    });
    };
    return given.add ? run.template operator()<true>() : run.template operator()<false>();
  });
}

}  // namespace zfcuda::cuda
