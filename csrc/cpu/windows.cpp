#include "cpu/windows.h"

#include <sstream>
#include <string>

#include "core/check.h"

namespace zfcuda::cpu {
namespace {

std::string size_of(const Box& box) {
  std::ostringstream text;
  text << box.height() << "x" << box.width() << " pixels";
  return text.str();
}

std::string far_away(const char* name, const Box& box) {
  std::ostringstream text;
  text << name << " [" << box.y0 << ", " << box.x0 << ", " << box.y1 << ", " << box.x1
       << "]: coordinates must be within 2^30";
  return text.str();
}

// What is wrong with `row` in `column`, and what would be right.
std::string complaint(const WindowRow& row, int column, const WindowsParams& p) {
  std::ostringstream text;
  switch (column) {
    case WindowRow::image_column:
      text << "image " << row.image << "; expected 0 to " << p.batch - 1;
      break;
    case WindowRow::buffer_column:
      text << "buffer " << row.buffer << "; expected -1 to " << p.buffer_count - 1;
      break;
    case WindowRow::offset_column:
      text << "offset " << row.offset << ": a patch of " << size_of(row.patch) << " with pitch "
           << row.pitch << " from there on is not inside buffer " << row.buffer << " of "
           << p.buffers[row.buffer].pixels << " pixels";
      break;
    case WindowRow::pitch_column:
      text << "pitch " << row.pitch << "; expected 0 to 2^31 - 1";
      break;
    case WindowRow::patch_column:
      text << far_away("patch box", row.patch);
      break;
    case WindowRow::box_column:
      if (!row.box.near()) return far_away("window box", row.box);
      text << "a window of " << size_of(row.box) << ", more than largest = " << p.largest;
      break;
    default:
      text << "out offset " << row.out << ": a window of " << size_of(row.box)
           << " from there on is not inside out's " << p.out_pixels << " pixels";
  }
  return text.str();
}

}  // namespace

WindowList::WindowList(const char* op, const WindowsParams& p) {
  rows_.reserve(p.count);
  begins_.reserve(p.count + 1);
  int64_t pixels = 0;
  for (int64_t i = 0; i < p.count; ++i) {
    const auto row = WindowRow::read(p.windows + i * WindowRow::columns);
    if (row.box.empty()) continue;
    const int wrong = wrong_column(row, p);
    ZF_CHECK(wrong < 0, op, ": row ", i, " of windows has in column ", wrong, " ",
             complaint(row, wrong, p));
    rows_.push_back(row);
    begins_.push_back(pixels);
    pixels += row.box.height() * row.box.width();
  }
  begins_.push_back(pixels);
}

}  // namespace zfcuda::cpu
