#include <torch/library.h>

#include <cstring>

#include "common/dispatch.h"
#include "common/prepare.h"
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
struct Copying {
  static void put(Run<T> to, const T* source) {
    if (to.channels == to.pitch) {
      std::memcpy(to.at, source, to.pixels * to.channels * sizeof(T));
      return;
    }
    for (int64_t i = 0; i < to.pixels; ++i) {
      std::memcpy(to.at + i * to.pitch, source + i * to.channels, to.channels * sizeof(T));
    }
  }

  static void fill(Run<T> to, Compute<T> value) {
    if (to.channels == to.pitch) {
      std::fill_n(to.at, to.pixels * to.channels, static_cast<T>(value));
      return;
    }
    for (int64_t i = 0; i < to.pixels; ++i) {
      std::fill_n(to.at + i * to.pitch, to.channels, static_cast<T>(value));
    }
  }
};

template <class T>
struct Adding {
  // Tight pixels are one long one.
  static Run<T> merged(Run<T> to) {
    if (to.channels == to.pitch) to = {to.at, 1, to.pixels * to.channels, 0};
    return to;
  }

  static void put(Run<T> to, const T* source) {
    to = merged(to);
    ZF_PICK(add_pixels<Compute<T>, T>)(source, to.at, to.pixels, to.channels, to.pitch);
  }

  static void fill(Run<T> to, Compute<T> value) {
    if (value == Compute<T>(0)) return;
    to = merged(to);
    ZF_PICK(add_value<Compute<T>, T>)(value, to.at, to.pixels, to.channels, to.pitch);
  }
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
            How<T>::put(run, source);
          } else {
            How<T>::fill(run, static_cast<Compute<T>>(static_cast<T>(p_.outside)));
          }
          to += pixels * m.out_channels;
        });
  }

 private:
  const GatherWindowsParams& p_;
  const WindowRow* row_ = nullptr;
};

void gather_windows(const std::optional<at::Tensor>& base, at::TensorList patches,
                    const at::Tensor& windows, const at::Tensor& out, int64_t largest,
                    int64_t channel, double outside, bool add) {
  const auto call =
      prepare_gather_windows(base, patches, windows, out, largest, channel, outside, add);
  const GatherWindowsParams& p = call.params;
  const WindowList list("gather_windows", p.map);
  with_dtype(p.map.dtype, [&]<class T>(T) {
    if (p.add) {
      list.for_each_row(p.map, [&] { return Gatherer<T, Adding>(p); });
    } else {
      list.for_each_row(p.map, [&] { return Gatherer<T, Copying>(p); });
    }
  });
}

TORCH_LIBRARY_IMPL(zfcuda, CPU, m) {
  m.impl("gather_windows", gather_windows);
}

}  // namespace
}  // namespace zfcuda::cpu
