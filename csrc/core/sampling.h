#pragma once

#include <cstdint>

#include "core/host_device.h"

// Bilinear sampling under an affine map, one row of output pixels at a time.

namespace zfcuda {

// Where the pixels of output row `y` fall in the input: (x0 + dx * column, y0 + dy * column), as
// offsets of pixel indices. The constant part is summed in double whatever T is, so that float
// coordinates carry one rounding and not four.
template <class T>
struct SampleLine {
  T x0, dx, y0, dy;

  ZF_HOST_DEVICE static SampleLine of(const double* matrix, int64_t row) {
    const double y = static_cast<double>(row) + 0.5;
    return {static_cast<T>(matrix[0] * 0.5 + matrix[1] * y + matrix[2] - 0.5),
            static_cast<T>(matrix[0]),
            static_cast<T>(matrix[3] * 0.5 + matrix[4] * y + matrix[5] - 0.5),
            static_cast<T>(matrix[3])};
  }
};

// The upper left tap of a sample and the weights of the lower right ones. A sample with no tap
// inside the image (or at a NaN coordinate) is `outside`; only then are the other members
// meaningless.
template <class T>
struct Sample {
  int32_t x, y;
  T wx, wy;
  bool outside;

  ZF_HOST_DEVICE static Sample at(const SampleLine<T>& line, int32_t column, int32_t height,
                                  int32_t width) {
    const T sx = line.x0 + line.dx * static_cast<T>(column);
    const T sy = line.y0 + line.dy * static_cast<T>(column);
    const bool touches =
        sx > T(-1) && sx < static_cast<T>(width) && sy > T(-1) && sy < static_cast<T>(height);
    if (!touches) return {0, 0, T(0), T(0), true};
    // Shifted by one so that truncation is floor.
    int32_t x = static_cast<int32_t>(sx + T(1)) - 1;
    int32_t y = static_cast<int32_t>(sy + T(1)) - 1;
    // Just below the far edge the sum may round up to it.
    x = x < width ? x : width - 1;
    y = y < height ? y : height - 1;
    // Just below a whole coordinate the shifted sum may round up to it.
    const T wx = sx - static_cast<T>(x), wy = sy - static_cast<T>(y);
    return {x, y, wx > T(0) ? wx : T(0), wy > T(0) ? wy : T(0), false};
  }
};

template <class T>
ZF_HOST_DEVICE T blend(T upper_left, T upper_right, T lower_left, T lower_right, T wx, T wy) {
  const T upper = upper_left * (T(1) - wx) + upper_right * wx;
  const T lower = lower_left * (T(1) - wx) + lower_right * wx;
  return upper * (T(1) - wy) + lower * wy;
}

// The same without the taps of weight 0: 0 * NaN and 0 * inf would be NaN where nothing is sampled.
template <class T>
ZF_HOST_DEVICE T blend_weighted(T upper_left, T upper_right, T lower_left, T lower_right, T wx,
                                T wy) {
  const auto between = [](T a, T b, T weight) {
    if (weight == T(0)) return a;
    return weight == T(1) ? b : a * (T(1) - weight) + b * weight;
  };
  return between(between(upper_left, upper_right, wx), between(lower_left, lower_right, wx), wy);
}

}  // namespace zfcuda
