// The inner loops that unpooling maps and windows share, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// What the sources send, in their order. Their number is known where Count says so, and then the
// loop unrolls; Count = 0 takes it from `count`.
template <bool Overwrite, class T, int Lanes, int Count>
ZF_INLINE Vector<T, Lanes> collect(const Source<T>* sources, int count, int64_t o) {
  auto sum = Vector<T, Lanes>{};
#pragma GCC unroll 4
  for (int i = 0; i < (Count > 0 ? Count : count); ++i) {
    const auto value = load<T, Lanes>(sources[i].y + o);
    sum = take_where<Overwrite, T, Lanes>(sum, value, sources[i].switches + o, sources[i].tap);
  }
  return sum;
}

template <class T, int Lanes>
ZF_INLINE Vector<T, Lanes> rectify(const Vector<T, Lanes>& v, bool relu) {
  return relu ? (v < T(0) ? Vector<T, Lanes>{} : v) : v;
}

template <class T, bool Overwrite, int Count>
ZF_INLINE void unpool_line_of(const Source<T>* sources, int n, bool relu, T* x, int64_t count) {
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    store<T, Lanes>(x + o,
                    rectify<T, Lanes>(collect<Overwrite, T, Lanes, Count>(sources, n, o), relu));
  });
}

// `count` outputs with the same sources, each a step further: the channels of a pixel, or a row at
// stride 1.
template <class T, bool Overwrite>
void unpool_line(const Source<T>* sources, int n, bool relu, T* x, int64_t count) {
  switch (n) {
    case 1:
      return unpool_line_of<T, Overwrite, 1>(sources, n, relu, x, count);
    case 2:
      return unpool_line_of<T, Overwrite, 2>(sources, n, relu, x, count);
    case 4:
      return unpool_line_of<T, Overwrite, 4>(sources, n, relu, x, count);
    default:
      return unpool_line_of<T, Overwrite, 0>(sources, n, relu, x, count);
  }
}

// Any geometry: what one tap of one pixel's windows sends to its zeroed channels.
template <class T, class Switch, bool Overwrite>
void send_tap(const T* __restrict y, const Switch* __restrict switches, int32_t tap,
              T* __restrict x, int64_t count) {
  for (int64_t o = 0; o < count; ++o) {
    const bool sent = switches[o] == static_cast<Switch>(tap);
    x[o] = sent ? (Overwrite ? y[o] : x[o] + y[o]) : x[o];
  }
}

template <class T>
void rectify_row(T* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = row[i] < T(0) ? T(0) : row[i];
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
