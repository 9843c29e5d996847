#pragma once

#include "core/pooling.h"
#include "core/sampling.h"
#include "core/scalar.h"
#include "core/unpooling.h"

// Warping one output pixel, and its transpose.

namespace zfcuda {

// One channel of one sample: taps outside the image are `fill`. `plane` steps `pixel` elements from
// column to column.
template <class T>
ZF_HOST_DEVICE Compute<T> sampled(const Sample<Compute<T>>& s, const T* plane, int64_t pixel,
                                  int32_t height, int32_t width, Compute<T> fill) {
  using C = Compute<T>;
  if (s.outside) return fill;
  const bool left = s.x >= 0, right = s.x + 1 < width, above = s.y >= 0, below = s.y + 1 < height;
  const T* at = plane + (static_cast<int64_t>(s.y) * width + s.x) * pixel;
  const int64_t row = static_cast<int64_t>(width) * pixel;
  const C upper_left = above && left ? widen(at[0]) : fill;
  const C upper_right = above && right ? widen(at[pixel]) : fill;
  const C lower_left = below && left ? widen(at[row]) : fill;
  const C lower_right = below && right ? widen(at[row + pixel]) : fill;
  const C blended = blend(upper_left, upper_right, lower_left, lower_right, s.wx, s.wy);
  if (blended == blended) return blended;
  return blend_weighted(upper_left, upper_right, lower_left, lower_right, s.wx, s.wy);
}

// The output positions along one axis, around `centre`, whose sample can come within one pixel of a
// place.
struct Reach {
  int32_t begin, end;

  ZF_HOST_DEVICE static Reach around(double centre, double half, int32_t size) {
    // Written so that NaN and infinity (a matrix without inverse) give the whole axis.
    const double low = centre - half, high = centre + half + 1.0;
    const int32_t begin = low > 0.0 ? (low < size ? static_cast<int32_t>(low) : size) : 0;
    const int32_t end = high < size ? (high > 0.0 ? static_cast<int32_t>(high) + 1 : 0) : size;
    return {begin, end < size ? end : size};
  }
};

// The gradient of input element (n, c, row, col): what every sample that touched it sends back.
// Gathering needs the inverse map to know where to look; the weights come from the forward map
// itself, so this is its transpose.
template <class T>
ZF_HOST_DEVICE T warp_backward_at(const WarpParams& p, int64_t n, int64_t c, int32_t row,
                                  int32_t col) {
  using C = Compute<T>;
  const auto height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
  const T* grad = static_cast<const T*>(p.x);
  C sum = 0;
  for (int64_t m = 0; m < p.maps; ++m) {
    const double* a = p.matrices + 6 * m;
    const double determinant = a[0] * a[4] - a[1] * a[3];
    const double dx = col + 0.5 - a[2], dy = row + 0.5 - a[5];
    // The preimage of the 2x2 pixels around the place is a parallelogram; its bounding box, with
    // room for rounding.
    const double scale = 1.0 / determinant, slack = 0.01;
    const double abs_scale = scale < 0 ? -scale : scale;
    const auto magnitude = [](double v) { return v < 0 ? -v : v; };
    const double half_x = (magnitude(a[4]) + magnitude(a[1])) * abs_scale + slack;
    const double half_y = (magnitude(a[3]) + magnitude(a[0])) * abs_scale + slack;
    const Reach cols = Reach::around((a[4] * dx - a[1] * dy) * scale - 0.5, half_x, width);
    const Reach rows = Reach::around((a[0] * dy - a[3] * dx) * scale - 0.5, half_y, height);
    for (int32_t y = rows.begin; y < rows.end; ++y) {
      const auto line = SampleLine<C>::of(a, y);
      for (int32_t x = cols.begin; x < cols.end; ++x) {
        const auto s = Sample<C>::at(line, x, height, width);
        const int32_t right = col - s.x, below = row - s.y;
        if (s.outside || right < 0 || right > 1 || below < 0 || below > 1) continue;
        const C weight = (right ? s.wx : C(1) - s.wx) * (below ? s.wy : C(1) - s.wy);
        if (weight == C(0)) continue;  // 0 * NaN is NaN
        const int64_t at = element_at<int64_t>(p.channels_last, n * p.maps + m, c, y, x, p.channels,
                                               height, width);
        sum += weight * widen(grad[at]);
      }
    }
  }
  return static_cast<T>(sum);
}

}  // namespace zfcuda
