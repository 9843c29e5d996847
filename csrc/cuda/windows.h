#pragma once

#include "core/scalar.h"
#include "core/windows.h"
#include "cuda/launch.h"

// What the kernels on windows of maps under patches share. A thread makes V channels of one pixel
// of one window; the index space is windows x the largest window's pixels x channels / V, so that
// nothing has to be known about the windows before the launch.

namespace zfcuda::cuda {

// The pixel that a thread makes.
template <class Index>
struct WindowPixel {
  WindowRow row;
  int64_t y, x;
  Index out, channel;
  bool exists;  // not for a window with fewer pixels, nor for one out of bounds

  ZF_HOST_DEVICE static WindowPixel of(const WindowsParams& m, Index i, int lanes) {
    const Index groups = static_cast<Index>(m.channels) / lanes,
                largest = static_cast<Index>(m.largest);
    const Index channel = i % groups * lanes, slot = i / groups, pixel = slot % largest;
    const auto row = WindowRow::read(m.windows + int64_t{slot / largest} * WindowRow::columns);
    if (row.box.empty() || wrong_column(row, m) >= 0) return {row, 0, 0, 0, 0, false};
    const auto width = static_cast<Index>(row.box.width());
    const Index y = pixel / width, x = pixel % width;
    return {row,
            row.box.y0 + y,
            row.box.x0 + x,
            static_cast<Index>(row.out) + pixel,
            channel,
            y < static_cast<Index>(row.box.height())};
  }
};

// Launches body.operator()<V, Index>(params), which makes V channels a call, with the lanes and the
// index type that the call allows; `packed`: 16-byte accesses are aligned in what the op has
// besides the shared parameters.
template <class T, class Params, class Body>
int launch_over_windows(Params p, bool packed, const Launch& launch, const Body& body) {
  WindowsParams& m = p.map;
  // No window that fits `out` is larger than it.
  m.largest = m.largest < m.out_pixels ? m.largest : m.out_pixels;
  constexpr int wide = 16 / sizeof(T);
  constexpr int64_t size = sizeof(T);
  bool small = fits_int32(m.count * m.largest * m.channels) &&
               fits_int32(m.out_pixels * m.out_channels) &&
               fits_int32(m.batch * m.height * m.width * m.channels);
  packed = packed && aligned(m.out, m.out_channels * size) && m.channels % wide == 0;
  for (int64_t b = 0; b < m.buffer_count; ++b) {
    small = small && fits_int32(m.buffers[b].pixels * m.channels);
    packed = packed && aligned(m.buffers[b].data, 0);
  }
  return with_lanes<wide>(packed, small, [&]<int V, class Index>() {
    return launch(body.template operator()<V, Index>(p),
                  static_cast<Index>(m.count * m.largest * (m.channels / V)));
  });
}

}  // namespace zfcuda::cuda
