#include <ATen/Parallel.h>
#include <torch/library.h>

#include <array>
#include <utility>
#include <vector>

#include "common/dispatch.h"
#include "common/prepare.h"
#include "core/pooling.h"
#include "cpu/level.h"
#include "cpu/rows.h"

namespace zfcuda::cpu {
namespace {

// A window's taps, all of them real: one that falls outside the image is replaced by the tap before
// it in raster order (or the first one inside), whose second look changes neither the maximum nor
// the switch.
template <class T, int Taps>
struct TapList {
  std::array<const T*, Taps> at;
  std::array<int, Taps> code;
};

}  // namespace
}  // namespace zfcuda::cpu

#define ZF_LOOPS "cpu/max_pool2d_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Fusing ReLU costs nothing: a window's best value starts at 0 instead of -inf, with the first tap
// as its switch, which is exactly what rectifying every tap first would give.
template <class T>
constexpr T lowest(bool relu) {
  return relu ? T(0) : -std::numeric_limits<T>::infinity();
}

// Below this many neighbours a window is pooled tap by tap.
template <class T>
inline constexpr int64_t least_neighbours = 16 / sizeof(T);

// Pools one output row at a time. The layouts differ in `lanes_`, the neighbours that share a
// column: 1 (contiguous) or all channels of a pixel (channels_last).
template <class T, class Switch>
class Pooler {
  using C = Compute<T>;

 public:
  explicit Pooler(const MaxPoolParams& params)
      : p_(params),
        w_(params.shape.window),
        lanes_(params.shape.channels_last ? params.shape.channels : 1),
        rows_(w_.kernel_h),
        reader_(w_.kernel_h, params.shape.in_w * lanes_),
        writer_(params.shape.out_w * lanes_),
        code_(params.shape.out_w * lanes_) {}

  // Pools output row `row` of plane `plane` (a channel, or an image in channels_last).
  void pool_row(int64_t plane, int64_t row) {
    const PoolShape& shape = p_.shape;
    const int64_t in_row = shape.in_w * lanes_, out_row = shape.out_w * lanes_;
    const T* x = static_cast<const T*>(p_.x) + plane * shape.in_h * in_row;
    const int64_t out = (plane * shape.out_h + row) * out_row;
    T* y = static_cast<T*>(p_.y) + out;
    s_ = static_cast<Switch*>(p_.switches) + out;
    y_ = writer_.begin(y);
    inside_ = taps_inside(row, w_.kernel_h, w_.stride_h, w_.padding_h, w_.dilation_h, shape.in_h);
    for (int64_t ky = inside_.begin; ky < inside_.end; ++ky) {
      rows_[ky] =
          reader_.read(x + (row * w_.stride_h - w_.padding_h + ky * w_.dilation_h) * in_row, ky);
    }
    if (!pool_row_fast()) pool_any(0, shape.out_w);
    writer_.finish(y);
  }

 private:
  bool pool_row_fast() {
    if (!std::is_same_v<Switch, uint8_t> || inside_.begin >= inside_.end) return false;
    if (w_.kernel_h == 3 && w_.kernel_w == 3) return pool_fixed<3, 3>();
    if (w_.kernel_h == 2 && w_.kernel_w == 2) return pool_fixed<2, 2>();
    return false;
  }

  template <int KH, int KW>
  bool pool_fixed() {
    if (p_.shape.channels_last) {
      if (lanes_ < least_neighbours<C>) return false;
      for (int64_t ox = 0; ox < p_.shape.out_w; ++ox) pool_pixel<KH, KW>(ox);
      return true;
    }
    if (w_.stride_w == 1) return pool_columns<KH, KW, 1>();
    if (w_.stride_w == 2) return pool_columns<KH, KW, 2>();
    return false;
  }

  // The row that stands in for tap row ky: itself, or the nearest one inside the image.
  int64_t row_for(int64_t ky) const { return std::clamp(ky, inside_.begin, inside_.end - 1); }

  template <int KH, int KW, int Stride>
  bool pool_columns() {
    // Windows whose columns are all inside; the few others go tap by tap.
    const int64_t width = p_.shape.in_w, reach = (KW - 1) * w_.dilation_w;
    const int64_t last = width - 1 - reach + w_.padding_w;
    const int64_t begin = std::min((w_.padding_w + Stride - 1) / Stride, p_.shape.out_w);
    const int64_t end = last < 0 ? begin : std::clamp(last / Stride + 1, begin, p_.shape.out_w);
    if (end - begin < least_neighbours<C>) return false;
    TapList<C, KH * KW> taps;
    for (int ky = 0; ky < KH; ++ky) {
      const int64_t from = row_for(ky);
      for (int kx = 0; kx < KW; ++kx) {
        taps.at[ky * KW + kx] = rows_[from] + begin * Stride - w_.padding_w + kx * w_.dilation_w;
        taps.code[ky * KW + kx] = static_cast<int>(from) * KW + kx;
      }
    }
    pool_any(0, begin);
    pool_interior<KH * KW, Stride>(taps, begin, end - begin);
    pool_any(end, p_.shape.out_w);
    return true;
  }

  template <int KH, int KW>
  void pool_pixel(int64_t ox) {
    const auto columns =
        taps_inside(ox, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w, p_.shape.in_w);
    if (columns.begin >= columns.end) return pool_any(ox, ox + 1);
    TapList<C, KH * KW> taps;
    for (int ky = 0; ky < KH; ++ky) {
      const int64_t from_row = row_for(ky);
      for (int kx = 0; kx < KW; ++kx) {
        const int64_t from = std::clamp<int64_t>(kx, columns.begin, columns.end - 1);
        taps.at[ky * KW + kx] =
            rows_[from_row] + (ox * w_.stride_w - w_.padding_w + from * w_.dilation_w) * lanes_;
        taps.code[ky * KW + kx] = static_cast<int>(from_row * KW + from);
      }
    }
    pool_interior<KH * KW, 1>(taps, ox * lanes_, lanes_);
  }

  template <int Taps, int Stride>
  void pool_interior(const TapList<C, Taps>& taps, int64_t first, int64_t count) {
    if constexpr (std::is_same_v<Switch, uint8_t>) {
      ZF_PICK(pool_taps<C, Taps, Stride>)(taps, lowest<C>(p_.relu), y_ + first, s_ + first, count);
    }
  }

  // Any window, any clipping: windows [begin, end) of the row, one tap at a time.
  void pool_any(int64_t begin, int64_t end) {
    if (begin >= end) return;
    const int64_t first = begin * lanes_, count = (end - begin) * lanes_;
    std::fill_n(y_ + first, count, lowest<C>(p_.relu));
    std::fill_n(code_.begin() + first, count, -1);
    for (int64_t ky = inside_.begin; ky < inside_.end; ++ky) {
      for (int64_t kx = 0; kx < w_.kernel_w; ++kx) fold_column(ky, kx, begin, end);
    }
    for (int64_t i = first; i < first + count; ++i) {
      if (code_[i] < 0) y_[i] = lowest<C>(false);
      s_[i] = static_cast<Switch>(code_[i]);
    }
  }

  // Tap (ky, kx) of every window of [begin, end) that has it.
  void fold_column(int64_t ky, int64_t kx, int64_t begin, int64_t end) {
    const int64_t shift = kx * w_.dilation_w - w_.padding_w, width = p_.shape.in_w;
    const int64_t from = std::max(begin, shift < 0 ? (-shift + w_.stride_w - 1) / w_.stride_w : 0);
    const int64_t to = std::min(end, shift < width ? (width - 1 - shift) / w_.stride_w + 1 : 0);
    const auto tap = static_cast<int32_t>(ky * w_.kernel_w + kx);
    if (from >= to) return;
    if (lanes_ == 1) {
      ZF_PICK(fold_tap<C>)(rows_[ky] + from * w_.stride_w + shift, w_.stride_w, tap, y_ + from,
                           code_.data() + from, to - from);
      return;
    }
    for (int64_t ox = from; ox < to; ++ox) {
      ZF_PICK(fold_tap<C>)(rows_[ky] + (ox * w_.stride_w + shift) * lanes_, 1, tap,
                           y_ + ox * lanes_, code_.data() + ox * lanes_, lanes_);
    }
  }

  const MaxPoolParams& p_;
  const PoolWindow& w_;
  int64_t lanes_;
  std::vector<const C*> rows_;  // by tap row; only those inside the image are set
  RowReader<T> reader_;
  RowWriter<T> writer_;
  std::vector<int32_t> code_;
  // The row at work.
  Range<int64_t> inside_{};
  C* y_ = nullptr;
  Switch* s_ = nullptr;
};

template <class T, class Switch>
void run(const MaxPoolParams& p) {
  const PoolShape& shape = p.shape;
  const int64_t planes = shape.batch * (shape.channels_last ? 1 : shape.channels);
  const int64_t row_work =
      shape.in_w * shape.window.stride_h * (shape.channels_last ? shape.channels : 1);
  if (shape.batch * shape.channels == 0) return;
  at::parallel_for(0, planes * shape.out_h, grain_of(row_work), [&](int64_t begin, int64_t end) {
    Pooler<T, Switch> pooler(p);
    for (int64_t i = begin; i < end; ++i) pooler.pool_row(i / shape.out_h, i % shape.out_h);
  });
}

std::tuple<at::Tensor, at::Tensor> max_pool2d(const at::Tensor& x, at::IntArrayRef kernel_size,
                                              at::IntArrayRef stride, at::IntArrayRef padding,
                                              at::IntArrayRef dilation, bool ceil_mode, bool relu) {
  const auto call =
      prepare_max_pool2d(x, {kernel_size, stride, padding, dilation}, ceil_mode, relu);
  with_dtype(call.params.shape.dtype, [&]<class T>(T) {
    with_switch_type(call.params.shape.wide_switches,
                     [&]<class Switch>(Switch) { run<T, Switch>(call.params); });
  });
  return {call.out, call.second_out};
}

TORCH_LIBRARY_IMPL(zfcuda, CPU, m) {
  m.impl("max_pool2d", max_pool2d);
}

}  // namespace
}  // namespace zfcuda::cpu
