#include "core/divisor.h"
#include "core/scalar.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// A thread writes V neighbouring elements of one output row. A row is one channel's line of pixels,
// or in channels_last the whole line; either way the occluder covers a contiguous piece. T is only
// a size: values are copied, never computed.
template <class T, int V, class Index>
struct OccludeRow {
  OccludeParams p;
  Divisor<Index> groups, height, planes, positions;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const Index pixel = p.channels_last ? p.channels : 1;
    const Index length = static_cast<Index>(p.width) * pixel;
    const auto [line, group] = groups.split(i);
    const auto [lines, row] = height.split(line);
    const auto [copy, plane] = planes.split(lines);
    const auto [image, position] = positions.split(copy);
    const Index e = group * V;
    const int64_t* box = p.boxes + 4 * static_cast<int64_t>(position);
    const bool covers = row >= box[0] && row < box[2];
    // In elements of the row; clamped first, since a box may be anywhere.
    const Index begin = covers ? clamped(box[1], p.width) * pixel : length;
    const Index end = covers ? clamped(box[3], p.width) * pixel : 0;
    const T* x =
        static_cast<const T*>(p.x) + ((image * planes.by + plane) * height.by + row) * length + e;
    Pack<T, V> out{};
    if (!(e >= begin && e + V <= end)) out = load_pack<V>(x);
    if (e + V > begin && e < end) {
      const T* fill = static_cast<const T*>(p.fill);
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        if (e + v < begin || e + v >= end) continue;
        out.lane[v] = p.fill_is_image   ? fill[(plane * height.by + row) * length + e + v]
                      : p.channels_last ? fill[(e + v) % pixel]
                                        : fill[plane];
      }
    }
    store_pack(static_cast<T*>(p.out) + line * length + e, out);
  }

 private:
  ZF_HOST_DEVICE static Index clamped(int64_t at, int64_t width) {
    return static_cast<Index>(at < 0 ? 0 : at < width ? at : width);
  }
};

template <class T>
int occlude_rows(const OccludeParams& p, const Launch& launch) {
  const int64_t length = p.width * (p.channels_last ? p.channels : 1);
  const int64_t planes = p.channels_last ? 1 : p.channels;
  const int64_t lines = p.batch * p.positions * planes * p.height;
  const bool packed = aligned(p.x, length * static_cast<int64_t>(sizeof(T))) && aligned(p.out, 0);
  return with_lanes<16 / sizeof(T)>(packed, fits_int32(lines * length), [&]<int V, class Index>() {
    return launch(OccludeRow<T, V, Index>{p, Divisor<Index>(length / V), Divisor<Index>(p.height),
                                          Divisor<Index>(planes), Divisor<Index>(p.positions)},
                  static_cast<Index>(lines * (length / V)));
  });
}

int occlude(const OccludeParams& p, Stream stream) {
  switch (p.element_size) {
    case 2:
      return occlude_rows<uint16_t>(p, Launch{stream});
    case 4:
      return occlude_rows<uint32_t>(p, Launch{stream});
    default:
      return occlude_rows<uint64_t>(p, Launch{stream});
  }
}

}  // namespace zfcuda::cuda
