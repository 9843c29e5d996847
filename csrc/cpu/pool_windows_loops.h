// The inner loops of pooling windows, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// The largest of the taps of Lanes channels; `Nans` says whether one may be NaN. Count taps, or
// where Count is 0 `count`.
template <bool Nans, class T, int Lanes, int Count>
ZF_INLINE bool largest_block(const T* const* taps, int64_t count, int64_t at, T lowest, T* y) {
  auto best = all<T, Lanes>(lowest), sum = Vector<T, Lanes>{};
#pragma GCC unroll 9
  for (int64_t t = 0; t < (Count > 0 ? Count : count); ++t) {
    const auto value = load<T, Lanes>(taps[t] + at);
    if constexpr (Nans) {
      best = (value > best) | (value != value) ? value : best;
    } else {
      best = larger<T, Lanes>(value, best);
      sum += value;
    }
  }
  if (!Nans && any_nan<T, Lanes>(sum)) return false;
  store<T, Lanes>(y + at, best);
  return true;
}

template <class T, int Count>
ZF_INLINE void largest_of(const T* const* taps, int64_t count, T lowest, T* y, int64_t channels) {
  cover<T>(channels, [&]<int Lanes>(int64_t at) __attribute__((always_inline)) {
    // Without NaN the loop has half the comparisons; the sum of the taps tells whether that was so.
    if (!largest_block<false, T, Lanes, Count>(taps, count, at, lowest, y)) {
      largest_block<true, T, Lanes, Count>(taps, count, at, lowest, y);
    }
  });
}

// The largest of `count` pixels, channel by channel, from `lowest` on. The usual numbers of taps
// unroll.
template <class T>
ZF_INLINE void pool_pixel(const T* const* taps, int64_t count, T lowest, T* y, int64_t channels) {
  if (channels < narrowest<T>) {
    for (int64_t c = 0; c < channels; ++c) {
      T best = lowest;
      for (int64_t t = 0; t < count; ++t) {
        const T value = taps[t][c];
        best = (value > best) | (value != value) ? value : best;
      }
      y[c] = best;
    }
    return;
  }
  if (count == 9) return largest_of<T, 9>(taps, count, lowest, y, channels);
  if (count == 4) return largest_of<T, 4>(taps, count, lowest, y, channels);
  largest_of<T, 0>(taps, count, lowest, y, channels);
}

// A row of pooled pixels. `pixels` lists where the pixels of `rows` rows of the map lie, `width` a
// row; `taps` has room for all of one window's.
template <class T>
void pool_row(const T* const* pixels, int64_t rows, int64_t width, const PooledColumn* columns,
              int64_t count, int64_t dilation, bool relu, T* y, int64_t channels, const T** taps) {
  for (int64_t i = 0; i < count; ++i, y += channels) {
    const PooledColumn column = columns[i];
    int64_t found = 0;
    for (int64_t row = 0; row < rows; ++row) {
      const T* const* first = pixels + row * width + column.first;
      for (int64_t tap = 0; tap < column.taps; ++tap) taps[found++] = first[tap * dilation];
    }
    const T lowest = relu && found > 0 ? T(0) : -T(__builtin_inf());
    pool_pixel(taps, found, lowest, y, channels);
  }
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
