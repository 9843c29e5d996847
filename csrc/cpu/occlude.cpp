#include <algorithm>
#include <cstring>
#include <vector>

#include "core/kernels.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace zfcuda::cpu {
namespace {

// Copying and filling are the same bytes whatever the dtype. A plane is a channel, or in
// channels_last the image.
struct Planes {
  int64_t count, row_bytes, pixel_bytes;
  std::vector<char> patterns;  // one row of plain fill per plane; empty when the fill is an image
};

Planes planes_of(const OccludeParams& p) {
  const int64_t count = p.channels_last ? 1 : p.channels;
  const int64_t pixel = p.element_size * (p.channels_last ? p.channels : 1);
  Planes planes{count, pixel * p.width, pixel, {}};
  if (p.fill_is_image) return planes;
  planes.patterns.resize(count * planes.row_bytes);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t col = 0; col < p.width; ++col) {
      std::memcpy(planes.patterns.data() + i * planes.row_bytes + col * pixel,
                  static_cast<const char*>(p.fill) + i * pixel, pixel);
    }
  }
  return planes;
}

// One plane under one occluder, every byte written once.
void occlude_plane(const OccludeParams& p, const Planes& planes, const char* x, const int64_t* box,
                   int64_t plane, char* out) {
  const int64_t y0 = std::clamp<int64_t>(box[0], 0, p.height),
                y1 = std::clamp(box[2], y0, p.height);
  const int64_t x0 = std::clamp<int64_t>(box[1], 0, p.width), x1 = std::clamp(box[3], x0, p.width);
  const int64_t row_bytes = planes.row_bytes, left = x0 * planes.pixel_bytes,
                right = x1 * planes.pixel_bytes;
  std::memcpy(out, x, y0 * row_bytes);
  for (int64_t row = y0; row < y1; ++row) {
    const char* source = x + row * row_bytes;
    char* target = out + row * row_bytes;
    const char* fill = p.fill_is_image
                           ? static_cast<const char*>(p.fill) + (plane * p.height + row) * row_bytes
                           : planes.patterns.data() + plane * row_bytes;
    std::memcpy(target, source, left);
    std::memcpy(target + left, fill + left, right - left);
    std::memcpy(target + right, source + right, row_bytes - right);
  }
  std::memcpy(out + y1 * row_bytes, x + y1 * row_bytes, (p.height - y1) * row_bytes);
}

}  // namespace

void occlude(const OccludeParams& p) {
  const Planes planes = planes_of(p);
  const int64_t plane_bytes = p.height * planes.row_bytes;
  const int64_t total = p.batch * p.positions * planes.count;
  parallel_for(0, total, grain_of(plane_bytes / 4), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i % planes.count, position = i / planes.count % p.positions;
      const int64_t image = i / planes.count / p.positions;
      occlude_plane(p, planes,
                    static_cast<const char*>(p.x) + (image * planes.count + plane) * plane_bytes,
                    p.boxes + 4 * position, plane, static_cast<char*>(p.out) + i * plane_bytes);
    }
  });
}

}  // namespace zfcuda::cpu
