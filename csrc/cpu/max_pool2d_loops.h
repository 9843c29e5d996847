// The inner loops of max-pooling, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// The largest of a block's taps and which it was; `Nans` says whether one may be NaN.
template <bool Nans, class T, int Lanes, int Taps, int Stride>
ZF_INLINE bool pool_block(const TapList<T, Taps>& tap, int64_t at, T lowest, T* y,
                          uint8_t* switches) {
  auto best = all<T, Lanes>(lowest), sum = Vector<T, Lanes>{};
  auto code = all<Int<T>, Lanes>(tap.code[0]);
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t) {
    const auto value = load_strided<T, Lanes, Stride>(tap.at[t] + at);
    if constexpr (Nans) {
      const auto take = (value > best) | (value != value);
      best = take ? value : best;
      code = take ? all<Int<T>, Lanes>(tap.code[t]) : code;
    } else {
      const auto take = value > best;
      best = larger<T, Lanes>(value, best);
      code = take ? all<Int<T>, Lanes>(tap.code[t]) : code;
      sum += value;
    }
  }
  if (!Nans && any_nan<T, Lanes>(sum)) return false;
  store<T, Lanes>(y, best);
  store_bytes<T, Lanes>(switches, code);
  return true;
}

// How far ahead a row is fetched into the cache, in elements. Short rows from many planes are more
// than the hardware's own prefetching follows: worth a quarter of the time of 2x2 windows on 224 x
// 224.
inline constexpr int64_t fetch_ahead = 1024;

// `count` windows with the same taps, each the one before shifted by Stride: neighbours in a row
// (contiguous), or the channels of a pixel (channels_last, Stride 1). Then, `step` elements on, the
// next such `runs`: the pixels of a row. `lowest` is where the maximum starts; count >=
// narrowest<T>.
template <class T, int Taps, int Stride>
void pool_taps(const TapList<T, Taps>& taps, T lowest, T* y, uint8_t* switches, int64_t count,
               int64_t runs, int64_t step) {
  const TapList<T, Taps> tap = taps;
  for (int64_t run = 0; run < runs; ++run, y += count, switches += count) {
    const int64_t shift = run * step;
    cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
      const int64_t at = shift + o * Stride;
      if constexpr (Stride > 1) {
        for (int64_t line = 0; line < Stride * Lanes; line += 64 / sizeof(T)) {
          __builtin_prefetch(tap.at[0] + at + fetch_ahead + line);
          __builtin_prefetch(tap.at[Taps - 1] + at + fetch_ahead + line);
        }
      }
      // Without NaN the loop has half the comparisons; the sum of the taps tells whether that was
      // so.
      if (!pool_block<false, T, Lanes, Taps, Stride>(tap, at, lowest, y + o, switches + o)) {
        pool_block<true, T, Lanes, Taps, Stride>(tap, at, lowest, y + o, switches + o);
      }
    });
  }
}

// One tap of any window, folded into what the taps before it left. `code` is -1 until a window has
// met a tap.
template <class T>
void fold_tap(const T* __restrict x, int64_t stride, int32_t tap, T* __restrict best,
              int32_t* __restrict code, int64_t count) {
  for (int64_t o = 0; o < count; ++o) {
    const T value = x[o * stride];
    const bool take = (value > best[o]) | (value != value);
    best[o] = take ? value : best[o];
    code[o] = (take | (code[o] < 0)) ? tap : code[o];
  }
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
