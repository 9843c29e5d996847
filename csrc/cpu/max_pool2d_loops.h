// The inner loops of max-pooling, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// `count` windows with the same taps, each the one before shifted by Stride: neighbours in a row
// (contiguous), or the channels of a pixel (channels_last, Stride 1). `lowest` is where the maximum
// starts; count >= narrowest<T>.
template <class T, int Taps, int Stride>
void pool_taps(const TapList<T, Taps>& taps, T lowest, T* y, uint8_t* switches, int64_t count) {
  const TapList<T, Taps> tap = taps;
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    auto best = all<T, Lanes>(lowest);
    auto code = all<Int<T>, Lanes>(tap.code[0]);
#pragma GCC unroll 9
    for (int t = 0; t < Taps; ++t) {
      const auto value = load_strided<T, Lanes, Stride>(tap.at[t] + o * Stride);
      const auto take = (value > best) | (value != value);
      best = take ? value : best;
      code = take ? all<Int<T>, Lanes>(tap.code[t]) : code;
    }
    store<T, Lanes>(y + o, best);
    store_bytes<T, Lanes>(switches + o, code);
  });
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
