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
    const bool inside = (sx >= T(0)) & (sx < right) & (sy >= T(0)) & (sy < bottom);
    const T cx = inside ? sx : T(0), cy = inside ? sy : T(0);
    const int32_t x = static_cast<int32_t>(cx), y = static_cast<int32_t>(cy);
    wx[i] = cx - static_cast<T>(x);
    wy[i] = cy - static_cast<T>(y);
    offset[i] = inside ? y * width + x : -1;
  }
}

// One channel of `count` samples that are all inside.
template <class T>
void blend_samples(const T* __restrict plane, const int32_t* __restrict offset,
                   const T* __restrict wx, const T* __restrict wy, int32_t width, T* __restrict out,
                   int32_t count) {
  for (int32_t i = 0; i < count; ++i) {
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

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
