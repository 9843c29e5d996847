// The inner loops of unpooling whole maps, compiled once per instruction set.

#include "cpu/unpool_line_loops.h"

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// A row at stride 2: `count` pairs of outputs, the even ones with their sources, the odd ones with
// theirs.
template <class T, bool Overwrite>
void unpool_pairs(const Source<T>* even, int evens, const Source<T>* odd, int odds, bool relu, T* x,
                  int64_t count) {
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    store_interleaved<T, Lanes>(
        x + 2 * o, rectify<T, Lanes>(collect<Overwrite, T, Lanes, 0>(even, evens, o), relu),
        rectify<T, Lanes>(collect<Overwrite, T, Lanes, 0>(odd, odds, o), relu));
  });
}

// The same for the common 2x2 and 3x3 windows at stride 2, whose sources follow from `Rows` pooled
// rows: the window that starts at the pair, and with K = 3 the one before it, which reaches the
// even output with its last tap.
template <class T, bool Overwrite, int K, int Rows>
ZF_INLINE void unpool_pairs_under(const Source<T>* rows, bool relu, T* x, int64_t count) {
  const Source<T> first = rows[0], second = rows[Rows - 1];
  cover<T>(count, [&]<int Lanes>(int64_t o) __attribute__((always_inline)) {
    auto even = Vector<T, Lanes>{}, odd = even;
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
      const Source<T>& row = r == 0 ? first : second;
      if constexpr (K == 3) {
        even = take_where<Overwrite, T, Lanes>(even, load<T, Lanes>(row.y + o - 1),
                                               row.switches + o - 1, row.tap + 2);
      }
      const auto value = load<T, Lanes>(row.y + o);
      even = take_where<Overwrite, T, Lanes>(even, value, row.switches + o, row.tap);
      odd = take_where<Overwrite, T, Lanes>(odd, value, row.switches + o, row.tap + 1);
    }
    store_interleaved<T, Lanes>(x + 2 * o, rectify<T, Lanes>(even, relu),
                                rectify<T, Lanes>(odd, relu));
  });
}

template <class T, bool Overwrite, int K>
void unpool_pairs_of(const Source<T>* rows, int n, bool relu, T* x, int64_t count) {
  if (n == 1) return unpool_pairs_under<T, Overwrite, K, 1>(rows, relu, x, count);
  unpool_pairs_under<T, Overwrite, K, 2>(rows, relu, x, count);
}

template <class T>
void gate_row(T* __restrict y, const T* __restrict gate, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] = gate[i] <= T(0) ? T(0) : y[i];
}

bool any_beyond(const uint8_t* switches, uint8_t taps, int64_t count) {
  uint8_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= (switches[i] >= taps) & (switches[i] != 255);
  return found;
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
