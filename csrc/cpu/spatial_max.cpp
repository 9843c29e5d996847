#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/maxima.h"
#include "cpu/level.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

#define ZF_LOOPS "cpu/spatial_max_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// A map is looked through in stretches that stay in the cache between a first and a second look,
// and that 16-bit types are widened in.
inline constexpr int64_t stretch_of_map = 8192;
// channels_last: so many pixels of so many channels.
inline constexpr int64_t stretch_of_pixels = 256, channels_together = 64;

template <class T>
class Finder {
  using C = Compute<T>;

 public:
  explicit Finder(const SpatialMaxParams& params)
      : p_(params), reader_(std::max(stretch_of_map, stretch_of_pixels * channels_together)) {}

  // contiguous: one map.
  void find_in_map(int64_t plane) {
    const T* x = static_cast<const T*>(p_.x) + plane * p_.spatial;
    begin(plane, 1);
    for (int64_t start = 0; start < p_.spatial; start += stretch_of_map) {
      const int64_t count = std::min(stretch_of_map, p_.spatial - start);
      const C* row = reader_.read(x + start, 0, count);
      const int64_t place = ZF_PICK(place_of_largest<C>)(row, count);
      offer(x, plane, start + place, start + place, row[place]);
    }
  }

  // channels_last: some neighbouring maps of an image.
  void find_in_pixels(int64_t image, int64_t first, int64_t channels) {
    const T* x = static_cast<const T*>(p_.x) + image * p_.spatial * p_.channels + first;
    const int64_t plane = image * p_.channels + first;
    std::array<int64_t, channels_together> places;
    begin(plane, channels);
    for (int64_t start = 0; start < p_.spatial; start += stretch_of_pixels) {
      const int64_t pixels = std::min(stretch_of_pixels, p_.spatial - start);
      int64_t step = p_.channels;
      const C* columns = pixels_at(x + start * p_.channels, pixels, channels, step);
      ZF_PICK(places_of_largest<C>)(columns, step, pixels, channels, places.data());
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t place = start + places[c];
        offer(x, plane + c, place, place * p_.channels + c, columns[places[c] * step + c]);
      }
    }
  }

 private:
  void begin(int64_t plane, int64_t count) { std::fill_n(p_.places + plane, count, -1); }

  // The largest of a later stretch.
  void offer(const T* x, int64_t plane, int64_t place, int64_t offset, C value) {
    T* values = static_cast<T*>(p_.values);
    if (p_.places[plane] >= 0 && !surpasses(value, widen(values[plane]))) return;
    values[plane] = x[offset];
    p_.places[plane] = place;
  }

  // The channels of `pixels` that lie `step` elements apart; the step is another in a widened copy.
  const C* pixels_at(const T* x, int64_t pixels, int64_t channels, int64_t& step) {
    if constexpr (computes_in_place<T>) {
      return x;
    } else {
      const C* first = reader_.read(x, 0, channels);
      for (int64_t i = 1; i < pixels; ++i) reader_.read(x + i * step, i * channels, channels);
      step = channels;
      return first;
    }
  }

  const SpatialMaxParams& p_;
  RowReader<T> reader_;
};

template <class T>
void run(const SpatialMaxParams& p) {
  const int64_t groups =
      p.channels_last ? (p.channels + channels_together - 1) / channels_together : p.channels;
  const int64_t together = p.channels_last ? std::min(channels_together, p.channels) : 1;
  parallel_for(
      0, p.batch * groups, grain_of(p.spatial * together), [&](int64_t begin, int64_t end) {
        Finder<T> finder(p);
        for (int64_t i = begin; i < end; ++i) {
          if (!p.channels_last) {
            finder.find_in_map(i);
            continue;
          }
          const int64_t first = i % groups * channels_together;
          finder.find_in_pixels(i / groups, first, std::min(channels_together, p.channels - first));
        }
      });
}

}  // namespace

void spatial_max(const SpatialMaxParams& p) {
  with_dtype(p.dtype, [&]<class T>(T) { run<T>(p); });
}

}  // namespace zfcuda::cpu
