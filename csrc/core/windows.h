#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "core/kernels.h"

// Rows of `windows`: a patch over one image of a map, and the window of the result that is wanted.

namespace zfcuda {

// Half open.
struct Box {
  int64_t y0, x0, y1, x1;

  ZF_HOST_DEVICE bool empty() const { return y0 >= y1 || x0 >= x1; }
  ZF_HOST_DEVICE int64_t height() const { return y1 - y0; }
  ZF_HOST_DEVICE int64_t width() const { return x1 - x0; }

  // Whether no arithmetic on the coordinates can overflow.
  ZF_HOST_DEVICE bool near() const {
    constexpr int64_t far = int64_t{1} << 30;
    return y0 >= -far && x0 >= -far && y1 <= far && x1 <= far;
  }

  ZF_HOST_DEVICE bool contains(int64_t y, int64_t x) const {
    return y >= y0 && y < y1 && x >= x0 && x < x1;
  }
};

struct WindowRow {
  int64_t image, buffer, offset, pitch;
  Box patch, box;
  int64_t out;

  enum Column { image_column, buffer_column, offset_column, pitch_column, patch_column };
  enum { box_column = 8, out_column = 12, columns = 13 };

  ZF_HOST_DEVICE static WindowRow read(const int64_t* row) {
    return {row[0],
            row[1],
            row[2],
            row[3],
            {row[4], row[5], row[6], row[7]},
            {row[8], row[9], row[10], row[11]},
            row[12]};
  }

  ZF_HOST_DEVICE bool has_patch() const { return buffer >= 0 && !patch.empty(); }

  // From the patch's first pixel in its buffer to the one after its last.
  ZF_HOST_DEVICE int64_t patch_extent() const {
    return (patch.height() - 1) * pitch + patch.width();
  }

  // The same patch without what lies off a map. Where a row reads none, nobody has looked at its
  // coordinates, whose difference may overflow.
  ZF_HOST_DEVICE WindowRow clipped(int64_t height, int64_t width) const {
    WindowRow row = *this;
    if (box.empty() || !has_patch()) return row;
    Box& p = row.patch;
    p = {p.y0 < 0 ? 0 : p.y0, p.x0 < 0 ? 0 : p.x0, p.y1 < height ? p.y1 : height,
         p.x1 < width ? p.x1 : width};
    row.offset += (p.y0 - patch.y0) * pitch + p.x0 - patch.x0;
    return row;
  }
};

// The pixel (y, x) of a map with a patch over it: where its channels are, or null where the map (or
// the patch, if there is no map) has none. The row is known to be right.
template <class T, class Index>
ZF_HOST_DEVICE const T* pixel_at(const WindowsParams& p, const WindowRow& row, int64_t y,
                                 int64_t x) {
  const auto channels = static_cast<Index>(p.channels);
  if (row.buffer >= 0 && row.patch.contains(y, x)) {
    const auto pixel =
        static_cast<Index>(row.offset + (y - row.patch.y0) * row.pitch + x - row.patch.x0);
    return static_cast<const T*>(p.buffers[row.buffer].data) + pixel * channels;
  }
  if (!p.base || y < 0 || y >= p.height || x < 0 || x >= p.width) return nullptr;
  const auto pixel = static_cast<Index>((row.image * p.height + y) * p.width + x);
  return static_cast<const T*>(p.base) + pixel * channels;
}

// The column for whose sake a kernel would read or write out of bounds, or -1. An empty window
// reads and writes nothing.
ZF_HOST_DEVICE int wrong_column(const WindowRow& row, const WindowsParams& p) {
  if (row.box.empty()) return -1;
  if (!row.box.near() || row.box.height() * row.box.width() > p.largest)
    return WindowRow::box_column;
  const int64_t room = p.out_pixels - row.box.height() * row.box.width();
  if (row.out < 0 || row.out > room) return WindowRow::out_column;
  if (p.base && (row.image < 0 || row.image >= p.batch)) return WindowRow::image_column;
  if (row.buffer < -1 || row.buffer >= p.buffer_count) return WindowRow::buffer_column;
  if (!row.has_patch()) return -1;
  if (!row.patch.near()) return WindowRow::patch_column;
  if (row.pitch < 0 || row.pitch >= int64_t{1} << 31) return WindowRow::pitch_column;
  const int64_t begins = p.buffers[row.buffer].pixels - row.patch_extent();
  return row.offset < 0 || row.offset > begins ? WindowRow::offset_column : -1;
}

}  // namespace zfcuda
