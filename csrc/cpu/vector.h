// Fixed-size vectors on the compiler's vector extension, for the level being compiled. No include
// guard: see cpu/for_each_level.h.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

template <int Bytes>
struct IntOf;
template <>
struct IntOf<4> {
  using type = int32_t;
};
template <>
struct IntOf<8> {
  using type = int64_t;
};

template <class T, int Lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * Lanes)));
};
template <class T, int Lanes>
using Vector = typename VectorOf<T, Lanes>::type;

// What comparing two Vector<T> gives, and what switches are held in.
template <class T>
using Int = typename IntOf<sizeof(T)>::type;

template <class T, int Lanes>
ZF_INLINE Vector<T, Lanes> load(const T* at) {
  Vector<T, Lanes> v;
  __builtin_memcpy(&v, at, sizeof v);
  return v;
}

template <class T, int Lanes>
ZF_INLINE void store(T* at, const Vector<T, Lanes>& v) {
  __builtin_memcpy(at, &v, sizeof v);
}

template <class T, int Lanes>
ZF_INLINE Vector<T, Lanes> all(T value) {
  return Vector<T, Lanes>{} + value;
}

// Doubling or halving the width step by step: the compiler has instructions for these, but takes a
// jump from bytes to words apart lane by lane.
template <int Lanes>
ZF_INLINE Vector<int32_t, Lanes> widen_bytes(const Vector<uint8_t, Lanes>& v, int32_t) {
#if ZF_VECTOR_BYTES >= 32
  if constexpr (Lanes == 8) {
    int64_t bits;
    __builtin_memcpy(&bits, &v, sizeof bits);
    return reinterpret_cast<Vector<int32_t, 8>>(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits)));
  }
#endif
  return __builtin_convertvector(__builtin_convertvector(v, Vector<uint16_t, Lanes>),
                                 Vector<int32_t, Lanes>);
}
template <int Lanes>
ZF_INLINE Vector<int64_t, Lanes> widen_bytes(const Vector<uint8_t, Lanes>& v, int64_t) {
  return __builtin_convertvector(widen_bytes<Lanes>(v, int32_t{}), Vector<int64_t, Lanes>);
}
template <int Lanes>
ZF_INLINE Vector<uint8_t, Lanes> narrow_to_bytes(const Vector<int32_t, Lanes>& v) {
  return __builtin_convertvector(__builtin_convertvector(v, Vector<uint16_t, Lanes>),
                                 Vector<uint8_t, Lanes>);
}
template <int Lanes>
ZF_INLINE Vector<uint8_t, Lanes> narrow_to_bytes(const Vector<int64_t, Lanes>& v) {
  return narrow_to_bytes<Lanes>(__builtin_convertvector(v, Vector<int32_t, Lanes>));
}

// Small unsigned numbers: bytes in memory, lanes of Int<T> in registers.
template <class T, int Lanes>
ZF_INLINE Vector<Int<T>, Lanes> load_bytes(const uint8_t* at) {
  return widen_bytes<Lanes>(load<uint8_t, Lanes>(at), Int<T>{});
}

template <class T, int Lanes>
ZF_INLINE void store_bytes(uint8_t* at, const Vector<Int<T>, Lanes>& v) {
  store<uint8_t, Lanes>(at, narrow_to_bytes<Lanes>(v));
}

// a where it is greater, else b: one instruction, where comparing and choosing would wait for each
// other.
template <class T, int Lanes>
ZF_INLINE Vector<T, Lanes> larger(const Vector<T, Lanes>& a, const Vector<T, Lanes>& b) {
#if ZF_VECTOR_BYTES == 64
  // The masked form: gcc 12 takes the plain one's unused operand for an uninitialised variable.
  if constexpr (std::is_same_v<T, float> && Lanes == 16) {
    return _mm512_mask_max_ps(a, 0xffff, a, b);
  }
#endif
  return a > b ? a : b;
}

template <class T, int Lanes>
ZF_INLINE bool any_nan(const Vector<T, Lanes>& v) {
#if ZF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float> && Lanes == 16)
    return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0;
#endif
  const auto nan = v != v;
  Int<T> any = 0;
  for (int i = 0; i < Lanes; ++i) any |= nan[i];
  return any != 0;
}

// Lane by lane: value where the byte is `tap` (plus sum, unless it overwrites), else sum.
template <bool Overwrite, class T, int Lanes>
ZF_INLINE Vector<T, Lanes> take_where(const Vector<T, Lanes>& sum, const Vector<T, Lanes>& value,
                                      const uint8_t* bytes, int tap) {
#if ZF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float> && Lanes == 16) {
    // Compared as bytes: the mask registers save widening sixteen switches to sixteen words.
    const __mmask16 sent =
        _mm_cmpeq_epi8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)),
                            _mm_set1_epi8(static_cast<char>(tap)));
    return Overwrite ? _mm512_mask_mov_ps(sum, sent, value)
                     : _mm512_mask_add_ps(sum, sent, sum, value);
  }
#endif
  const auto sent = load_bytes<T, Lanes>(bytes) == Int<T>(tap);
  return sent ? (Overwrite ? value : sum + value) : sum;
}

template <class T, int Lanes, int... I>
ZF_INLINE Vector<T, Lanes> load_even(const T* at, std::integer_sequence<int, I...>) {
  // The second half is loaded from one element lower, so that nothing past the last lane is
  // touched.
  return __builtin_shufflevector((load<T, Lanes>(at)), (load<T, Lanes>(at + Lanes - 1)),
                                 (2 * I < Lanes ? 2 * I : 2 * I + 1)...);
}

// at[0], at[Stride], at[2 * Stride], ...
template <class T, int Lanes, int Stride>
ZF_INLINE Vector<T, Lanes> load_strided(const T* at) {
  static_assert(Stride == 1 || Stride == 2);
  if constexpr (Stride == 1) {
    return load<T, Lanes>(at);
  } else {
    return load_even<T, Lanes>(at, std::make_integer_sequence<int, Lanes>{});
  }
}

template <class T, int Lanes, int... I>
ZF_INLINE void store_interleaved(T* at, const Vector<T, Lanes>& even, const Vector<T, Lanes>& odd,
                                 std::integer_sequence<int, I...>) {
  store<T, Lanes>(at, __builtin_shufflevector(even, odd, (I / 2 + I % 2 * Lanes)...));
  store<T, Lanes>(at + Lanes,
                  __builtin_shufflevector(even, odd, (Lanes / 2 + I / 2 + I % 2 * Lanes)...));
}

// even[0], odd[0], even[1], odd[1], ...
template <class T, int Lanes>
ZF_INLINE void store_interleaved(T* at, const Vector<T, Lanes>& even, const Vector<T, Lanes>& odd) {
  store_interleaved<T, Lanes>(at, even, odd, std::make_integer_sequence<int, Lanes>{});
}

template <class T>
inline constexpr int widest = ZF_VECTOR_BYTES / sizeof(T);
template <class T>
inline constexpr int narrowest = 16 / sizeof(T);

// Calls block.operator()<Lanes>(start) over [0, count) in the widest blocks that fit. The last
// block is the narrowest that covers what is left, and overlaps the one before it instead of
// leaving a remainder: a block may run twice over the same place. `count` is at least `narrowest`.
template <class T, int Lanes = widest<T>, class Block>
ZF_INLINE void cover(int64_t count, const Block& block) {
  if constexpr (Lanes > narrowest<T>) {
    if (count < Lanes) return cover<T, Lanes / 2>(count, block);
  }
  int64_t i = 0;
  for (; i + Lanes <= count; i += Lanes) block.template operator()<Lanes>(i);
  if constexpr (Lanes > narrowest<T>) {
    if (i < count && count - i <= Lanes / 2)
      return block.template operator()<Lanes / 2>(count - Lanes / 2);
  }
  if (i < count) block.template operator()<Lanes>(count - Lanes);
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
