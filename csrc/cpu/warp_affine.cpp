#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/warping.h"
#include "cpu/level.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

#define ZF_LOOPS "cpu/warp_affine_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Warps one output row at a time: first where its samples lie, then each channel. Along a row the
// samples inside the image are one run, since both coordinates are monotonic; so are those that
// touch it. NaN among the former is looked for afterwards and sampled with more care, so that the
// usual image does not pay for it.
template <class T>
class Warper {
  using C = Compute<T>;

 public:
  // `x` is the input in the compute type.
  Warper(const WarpParams& p, const C* x)
      : p_(p),
        x_(x),
        height_(static_cast<int32_t>(p.height)),
        width_(static_cast<int32_t>(p.width)),
        offset_(p.width),
        wx_(p.width),
        wy_(p.width),
        fill_(p.channels) {
    for (int64_t c = 0; c < p.channels; ++c) fill_[c] = widen(static_cast<const T*>(p.fill)[c]);
  }

  void warp_row(int64_t image, int64_t map, int32_t row) {
    line_ = SampleLine<C>::of(p_.matrices + 6 * map, row);
    find_run();
    const C* x = x_ + image * p_.channels * p_.height * p_.width;
    T* out = static_cast<T*>(p_.out) + (image * p_.maps + map) * p_.channels * p_.height * p_.width;
    if (p_.channels_last) {
      pixels(x, out + row * p_.width * p_.channels);
    } else {
      for (int64_t c = 0; c < p_.channels; ++c) {
        columns(x + c * p_.height * p_.width, fill_[c], out + (c * p_.height + row) * p_.width);
      }
    }
  }

 private:
  void find_run() {
    // Offsets are int32, enough for any picture; a plane beyond that is sampled one by one.
    const bool huge = p_.height * p_.width > std::numeric_limits<int32_t>::max();
    begin_ = huge ? width_ : 0;
    end_ = width_;
    if (!huge) {
      ZF_PICK(find_samples<C>)
      (line_.x0, line_.dx, line_.y0, line_.dy, height_, width_, offset_.data(), wx_.data(),
       wy_.data());
      while (begin_ < width_ && offset_[begin_] < 0) ++begin_;
      while (end_ > begin_ && offset_[end_ - 1] < 0) --end_;
    }
    touch_begin_ = 0;
    while (touch_begin_ < begin_ && outside(touch_begin_)) ++touch_begin_;
    touch_end_ = width_;
    while (touch_end_ > std::max(end_, touch_begin_) && outside(touch_end_ - 1)) --touch_end_;
  }

  bool outside(int32_t column) const {
    return Sample<C>::at(line_, column, height_, width_).outside;
  }

  void columns(const C* plane, C fill, T* target) {
    C* out = writer_.begin(target, row_length());
    std::fill(out, out + touch_begin_, fill);
    for (int32_t i = touch_begin_; i < begin_; ++i) out[i] = sample(i, plane, 1, fill);
    ZF_PICK(blend_samples<C>)
    (plane, offset_.data() + begin_, wx_.data() + begin_, wy_.data() + begin_, width_, out + begin_,
     end_ - begin_);
    if (ZF_PICK(any_nan<C>)(out + begin_, end_ - begin_)) {
      for (int32_t i = begin_; i < end_; ++i) {
        if (out[i] != out[i]) out[i] = sample(i, plane, 1, fill);
      }
    }
    for (int32_t i = end_; i < touch_end_; ++i) out[i] = sample(i, plane, 1, fill);
    std::fill(out + touch_end_, out + width_, fill);
    writer_.finish();
  }

  void pixels(const C* x, T* target) {
    C* out = writer_.begin(target, row_length());
    const auto blend = ZF_PICK(blend_pixel<C>);
    for (int32_t i = 0; i < width_; ++i) {
      C* pixel = out + i * p_.channels;
      if (i < touch_begin_ || i >= touch_end_) {
        std::copy(fill_.begin(), fill_.end(), pixel);
      } else if (i < begin_ || i >= end_) {
        for (int64_t c = 0; c < p_.channels; ++c) {
          pixel[c] = sample(i, x + c, p_.channels, fill_[c]);
        }
      } else {
        const C* upper = x + offset_[i] * p_.channels;
        blend(upper, upper + p_.width * p_.channels, p_.channels, wx_[i], wy_[i], pixel);
      }
    }
    if (ZF_PICK(any_nan<C>)(out + begin_ * p_.channels, (end_ - begin_) * p_.channels)) {
      for (int64_t i = begin_ * p_.channels; i < end_ * p_.channels; ++i) {
        const int64_t c = i % p_.channels;
        if (out[i] != out[i]) {
          out[i] = sample(static_cast<int32_t>(i / p_.channels), x + c, p_.channels, fill_[c]);
        }
      }
    }
    writer_.finish();
  }

  int64_t row_length() const { return p_.width * (p_.channels_last ? p_.channels : 1); }

  C sample(int32_t column, const C* plane, int64_t pixel, C fill) const {
    return sampled<C>(Sample<C>::at(line_, column, height_, width_), plane, pixel, height_, width_,
                      fill);
  }

  const WarpParams& p_;
  const C* x_;
  int32_t height_, width_;
  std::vector<int32_t> offset_;
  std::vector<C> wx_, wy_, fill_;
  RowWriter<T> writer_;
  // The row at work.
  SampleLine<C> line_{};
  int32_t begin_ = 0, end_ = 0;              // samples whose taps are all inside
  int32_t touch_begin_ = 0, touch_end_ = 0;  // samples with any tap inside
};

}  // namespace

void warp_affine(const WarpParams& p) {
  with_dtype(p.dtype, [&]<class T>(T) {
    const int64_t values = p.batch * p.channels * p.height * p.width;
    RowReader<T> reader(values);
    const Compute<T>* input = reader.read(static_cast<const T*>(p.x), 0, values);
    const int64_t rows = p.batch * p.maps * p.height;
    parallel_for(0, rows, grain_of(4 * p.width * p.channels), [&](int64_t begin, int64_t end) {
      Warper<T> warper(p, input);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t copy = i / p.height;
        warper.warp_row(copy / p.maps, copy % p.maps, static_cast<int32_t>(i % p.height));
      }
    });
  });
}

void warp_affine_backward(const WarpParams& p) {
  with_dtype(p.dtype, [&]<class T>(T) {
    const int64_t rows = p.batch * p.channels * p.height;
    parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i / p.height / p.channels, c = i / p.height % p.channels;
        const auto row = static_cast<int32_t>(i % p.height);
        for (int32_t col = 0; col < p.width; ++col) {
          const int64_t at =
              element_at<int64_t>(p.channels_last, n, c, row, col, p.channels, p.height, p.width);
          static_cast<T*>(p.out)[at] = warp_backward_at<T>(p, n, c, row, col);
        }
      }
    });
  });
}

}  // namespace zfcuda::cpu
