
#include <cstring>

#include "core/dispatch.h"
#include "cpu/level.h"
#include "cpu/windows.h"

#define ZF_LOOPS "cpu/gather_windows_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Where a run of pixels goes: `pitch` values apart, tight where they are all of out's channels.
template <class T>
struct Run {
  T* at;
  int64_t pixels, channels, pitch;
};

template <class T>
class Copying {
 public:
  void put(const Run<T>& to, const T* source) const {
    constexpr int64_t size = sizeof(T);
    if (to.channels == to.pitch) {
      std::memcpy(to.at, source, to.pixels * to.channels * size);
    } else {
      copy_(reinterpret_cast<const uint8_t*>(source), reinterpret_cast<uint8_t*>(to.at), to.pixels,
            to.channels * size, to.pitch * size);
    }
  }

  void fill(const Run<T>& to, Compute<T> value) const {
    if (to.channels == to.pitch) {
      std::fill_n(to.at, to.pixels * to.channels, static_cast<T>(value));
      return;
    }
    for (int64_t i = 0; i < to.pixels; ++i) {
      std::fill_n(to.at + i * to.pitch, to.channels, static_cast<T>(value));
    }
  }

 private:
  void (*copy_)(const uint8_t*, uint8_t*, int64_t, int64_t, int64_t) = ZF_PICK(copy_pixels);
};

template <class T>
class Adding {
 public:
  void put(const Run<T>& run, const T* source) const {
    const Run<T> to = merged(run);
    add_(source, to.at, to.pixels, to.channels, to.pitch);
  }

  void fill(const Run<T>& run, Compute<T> value) const {
    if (value == Compute<T>(0)) return;
    const Run<T> to = merged(run);
    add_value_(value, to.at, to.pixels, to.channels, to.pitch);
  }

 private:
  // Tight pixels are one long one.
  static Run<T> merged(const Run<T>& to) {
    return to.channels == to.pitch ? Run<T>{to.at, 1, to.pixels * to.channels, 0} : to;
  }

  void (*add_)(const T*, T*, int64_t, int64_t, int64_t) = ZF_PICK(add_pixels<Compute<T>, T>);
  void (*add_value_)(Compute<T>, T*, int64_t, int64_t, int64_t) = ZF_PICK(add_value<Compute<T>, T>);
};

// Writes one row of a window at a time, piece by piece; How is Copying or Adding.
template <class T, template <class> class How>
class Gatherer {
 public:
  explicit Gatherer(const GatherWindowsParams& p) : p_(p) {}

  void enter(const WindowRow& row) { row_ = &row; }

  void write(int64_t y, int64_t out) {
    const WindowsParams& m = p_.map;
    T* to = static_cast<T*>(m.out) + out * m.out_channels + p_.channel;
    LaidMap<T>(m, *row_).for_each_piece(
        y, row_->box.x0, row_->box.x1, [&](int64_t, int64_t pixels, const T* source) {
          const Run<T> run{to, pixels, m.channels, m.out_channels};
          if (source) {
            how_.put(run, source);
          } else {
            how_.fill(run, static_cast<Compute<T>>(static_cast<T>(p_.outside)));
          }
          to += pixels * m.out_channels;
        });
  }

 private:
  const GatherWindowsParams& p_;
  How<T> how_;
  const WindowRow* row_ = nullptr;
};

}  // namespace

void gather_windows(const GatherWindowsParams& p) {
  const WindowList list("gather_windows", p.map);
  with_dtype(p.map.dtype, [&]<class T>(T) {
    if (p.add) {
      list.for_each_row(p.map, [&] { return Gatherer<T, Adding>(p); });
    } else {
      list.for_each_row(p.map, [&] { return Gatherer<T, Copying>(p); });
    }
  });
}

}  // namespace zfcuda::cpu
