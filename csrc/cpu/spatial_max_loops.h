// The inner loops of the largest element of each map, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// How many elements are compared between two looks at whether one was found.
inline constexpr int64_t looked_at_once = 64;

// Where `value`, which is there, comes first. `value` is no NaN.
template <class T>
ZF_INLINE int64_t first_of(const T* x, int64_t count, T value) {
  int64_t i = 0;
  for (; i + looked_at_once <= count; i += looked_at_once) {
    Int<T> found = 0;
    for (int64_t j = 0; j < looked_at_once; ++j) found |= x[i + j] == value;
    if (found) break;
  }
  while (i < count - 1 && x[i] != value) ++i;
  return i;
}

// One after the other, NaN and all; `step` elements lie from one to the next.
template <class T>
ZF_INLINE int64_t place_of_largest_slowly(const T* x, int64_t step, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) {
    if (surpasses(x[i * step], x[best * step])) best = i;
  }
  return best;
}

// Where the largest of `count` neighbours is: how large it is first, in full vectors, then where.
template <class T>
int64_t place_of_largest(const T* x, int64_t count) {
  constexpr int lanes = widest<T>;
  if (count < lanes) return place_of_largest_slowly(x, 1, count);
  auto most = load<T, lanes>(x + count - lanes);
  auto nan = most != most;
  for (int64_t i = 0; i + lanes <= count; i += lanes) {
    const auto value = load<T, lanes>(x + i);
    nan |= value != value;
    most = larger<T, lanes>(value, most);
  }
  T largest = most[0];
  Int<T> any_nan = nan[0];
  for (int i = 1; i < lanes; ++i) {
    any_nan |= nan[i];
    largest = most[i] > largest ? most[i] : largest;
  }
  return any_nan ? place_of_largest_slowly(x, 1, count) : first_of(x, count, largest);
}

// channels_last: where the largest of `pixels` is, for each of `channels` neighbours. The best so
// far stay in registers.
template <class T>
void places_of_largest(const T* x, int64_t step, int64_t pixels, int64_t channels, int64_t* place) {
  if (channels < narrowest<T>) {
    for (int64_t c = 0; c < channels; ++c) place[c] = place_of_largest_slowly(x + c, step, pixels);
    return;
  }
  cover<T>(channels, [&]<int Lanes>(int64_t c) __attribute__((always_inline)) {
    const T* column = x + c;
    auto most = load<T, Lanes>(column);
    auto at = Vector<Int<T>, Lanes>{}, now = at;
    auto nan = most != most;
    for (int64_t i = 1; i < pixels; ++i) {
      const auto value = load<T, Lanes>(column + i * step);
      const auto take = value > most;
      now += 1;
      nan |= value != value;
      most = larger<T, Lanes>(value, most);
      at = take ? now : at;
    }
    for (int i = 0; i < Lanes; ++i) {
      place[c + i] = nan[i] ? place_of_largest_slowly(column + i, step, pixels) : at[i];
    }
  });
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
