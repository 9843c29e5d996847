// The inner loops of unpooling, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

template <bool Overwrite, class T, int Lanes>
ZF_INLINE Vector<T, Lanes> collect(const Source<T>* sources, int count, int64_t o) {
  auto sum = Vector<T, Lanes>{};
  for (int i = 0; i < count; ++i) {
    const auto value = load<T, Lanes>(sources[i].y + o);
    sum = take_where<Overwrite, T, Lanes>(sum, value, sources[i].switches + o, sources[i].tap);
  }
  return sum;
}

template <class T, int Lanes>
ZF_INLINE Vector<T, Lanes> rectify(const Vector<T, Lanes>& v, bool relu) {
  return relu ? (v < T(0) ? Vector<T, Lanes>{} : v) : v;
}

// `count` outputs with the same sources, each a step further: the channels of a pixel, or a row at
// stride 1.
template <class T, bool Overwrite>
void unpool_line(const Source<T>* sources, int n, bool relu, T* x, int64_t count) {
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    store<T, Lanes>(x + o, rectify<T, Lanes>(collect<Overwrite, T, Lanes>(sources, n, o), relu));
  });
}

// A row at stride 2: `count` pairs of outputs, the even ones with their sources, the odd ones with
// theirs.
template <class T, bool Overwrite>
void unpool_pairs(const Source<T>* even, int evens, const Source<T>* odd, int odds, bool relu, T* x,
                  int64_t count) {
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    store_interleaved<T, Lanes>(
        x + 2 * o, rectify<T, Lanes>(collect<Overwrite, T, Lanes>(even, evens, o), relu),
        rectify<T, Lanes>(collect<Overwrite, T, Lanes>(odd, odds, o), relu));
  });
}

// Any geometry: what one tap of `count` windows sends into a zeroed row.
template <class T, class Switch, bool Overwrite>
void send_tap(const T* y, const Switch* switches, int32_t tap, T* x, int64_t stride,
              int64_t count) {
  for (int64_t o = 0; o < count; ++o) {
    T& place = x[o * stride];
    if (switches[o] == static_cast<Switch>(tap)) place = Overwrite ? y[o] : place + y[o];
  }
}

template <class T>
void rectify_row(T* row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = row[i] < T(0) ? T(0) : row[i];
}

template <class T>
void gate_row(const T* __restrict y, const T* __restrict gate, T* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = gate[i] <= T(0) ? T(0) : y[i];
}

bool any_beyond(const uint8_t* switches, uint8_t taps, int64_t count) {
  uint8_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (switches[i] >= taps) & (switches[i] != 255);
  return found;
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
