// The inner loops of warping, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// For every pixel of an output row: the offset of its upper left tap, or -1 where not all four taps
// are inside; and the weights of the lower right ones.
template <class T>
void find_samples(const T x0, const T dx, const T y0, const T dy, int32_t height, int32_t width,
                  int32_t* __restrict offset, T* __restrict wx, T* __restrict wy) {
  const T right = static_cast<T>(width - 1), bottom = static_cast<T>(height - 1);
  for (int32_t i = 0; i < width; ++i) {
    const T sx = x0 + dx * static_cast<T>(i), sy = y0 + dy * static_cast<T>(i);
    const int32_t inside = (sx >= T(0)) & (sx < right) & (sy >= T(0)) & (sy < bottom);
    // Clamped and masked without a branch, so that the loop vectorises; NaN becomes 0.
    T cx = sx > T(0) ? sx : T(0), cy = sy > T(0) ? sy : T(0);
    cx = cx < right ? cx : right;
    cy = cy < bottom ? cy : bottom;
    const int32_t x = static_cast<int32_t>(cx), y = static_cast<int32_t>(cy);
    wx[i] = cx - static_cast<T>(x);
    wy[i] = cy - static_cast<T>(y);
    offset[i] = (y * width + x) | (inside - 1);
  }
}

#if ZF_VECTOR_BYTES == 64
// The left and right neighbours of sixteen samples. A gather costs by the element, so each pair is
// fetched as one.
ZF_INLINE void gather_pairs(const float* row, const int32_t* offset, __m512& left, __m512& right) {
  const __m512 zeros = _mm512_setzero_ps();
  const auto pairs = [&](const int32_t* at) __attribute__((always_inline)) {
    const __m256i index = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return _mm512_castpd_ps(_mm512_mask_i32gather_pd(_mm512_castps_pd(zeros), 0xff, index, row, 4));
  };
  const __m512 first = pairs(offset), second = pairs(offset + 8);
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  left = _mm512_permutex2var_ps(first, even, second);
  right = _mm512_permutex2var_ps(first, _mm512_or_si512(even, _mm512_set1_epi32(1)), second);
}

// Samples in sixteens; returns how many were done.
ZF_INLINE int32_t blend_sixteens(const float* plane, const int32_t* offset, const float* wx,
                                 const float* wy, int32_t width, float* out, int32_t count) {
  int32_t i = 0;
  for (; i + 16 <= count; i += 16) {
    __m512 upper_left, upper_right, lower_left, lower_right;
    gather_pairs(plane, offset + i, upper_left, upper_right);
    gather_pairs(plane + width, offset + i, lower_left, lower_right);
    const __m512 x = _mm512_loadu_ps(wx + i), y = _mm512_loadu_ps(wy + i);
    const __m512 x_rest = 1.0f - x, y_rest = 1.0f - y;
    const __m512 above = upper_left * x_rest + upper_right * x,
                 below = lower_left * x_rest + lower_right * x;
    _mm512_storeu_ps(out + i, above * y_rest + below * y);
  }
  return i;
}
#endif

// One channel of `count` samples that are all inside.
template <class T>
void blend_samples(const T* __restrict plane, const int32_t* __restrict offset,
                   const T* __restrict wx, const T* __restrict wy, int32_t width, T* __restrict out,
                   int32_t count) {
  int32_t i = 0;
#if ZF_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<T, float>)
    i = blend_sixteens(plane, offset, wx, wy, width, out, count);
#endif
  for (; i < count; ++i) {
    const T* upper = plane + offset[i];
    const T* lower = upper + width;
    const T above = upper[0] * (T(1) - wx[i]) + upper[1] * wx[i];
    const T below = lower[0] * (T(1) - wx[i]) + lower[1] * wx[i];
    out[i] = above * (T(1) - wy[i]) + below * wy[i];
  }
}

// All channels of one sample that is inside.
template <class T>
void blend_pixel(const T* __restrict upper, const T* __restrict lower, int64_t channels, T wx, T wy,
                 T* __restrict out) {
  for (int64_t c = 0; c < channels; ++c) {
    const T above = upper[c] * (T(1) - wx) + upper[c + channels] * wx;
    const T below = lower[c] * (T(1) - wx) + lower[c + channels] * wx;
    out[c] = above * (T(1) - wy) + below * wy;
  }
}

template <class T>
bool any_nan(const T* row, int64_t count) {
  int32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found |= row[i] != row[i];
  return found;
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
