#include <array>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/pooling.h"
#include "cpu/axis.h"
#include "cpu/level.h"
#include "cpu/parallel.h"
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

// What all rows share: which taps of which windows lie inside, along each axis.
struct PoolAxes {
  Meetings rows, cols;

  explicit PoolAxes(const PoolShape& s)
      : rows(Meetings::of_windows(s.out_h, s.in_h, s.window.kernel_h, s.window.stride_h,
                                  s.window.padding_h, s.window.dilation_h)),
        cols(Meetings::of_windows(s.out_w, s.in_w, s.window.kernel_w, s.window.stride_w,
                                  s.window.padding_w, s.window.dilation_w)) {}
};

// Pools one output row at a time. The layouts differ in `lanes_`, the neighbours that share a
// column: 1 (contiguous) or all channels of a pixel (channels_last).
template <class T, class Switch>
class Pooler {
  using C = Compute<T>;

 public:
  Pooler(const MaxPoolParams& params, const PoolAxes& axes)
      : p_(params),
        s_(params.shape),
        w_(params.shape.window),
        axes_(axes),
        lanes_(s_.channels_last ? s_.channels : 1),
        reader_(w_.kernel_h * s_.in_w * lanes_),
        code_(s_.out_w * lanes_) {
    // Windows whose columns are all inside are one run.
    while (begin_ < s_.out_w && !whole(begin_)) ++begin_;
    for (end_ = begin_; end_ < s_.out_w && whole(end_); ++end_) {
    }
  }

  // Pools output row `row` of plane `plane` (a channel, or an image in channels_last).
  void pool_row(int64_t plane, int64_t row) {
    const int64_t in_row = s_.in_w * lanes_, out_row = s_.out_w * lanes_;
    const T* x = static_cast<const T*>(p_.x) + plane * s_.in_h * in_row;
    const int64_t out = (plane * s_.out_h + row) * out_row;
    T* y = static_cast<T*>(p_.y) + out;
    switches_ = static_cast<Switch*>(p_.switches) + out;
    y_ = writer_.begin(y, s_.out_w * lanes_);
    rows_.clear();
    for (auto tap = axes_.rows.begin(row); tap != axes_.rows.end(row); ++tap) {
      rows_.push_back({reader_.read(x + tap->at * in_row, tap->tap * in_row, in_row), tap->tap});
    }
    if (!pool_row_fast()) pool_any();
    writer_.finish();
  }

 private:
  // One row of taps: the input row under it.
  struct TapRow {
    const C* x;
    int32_t tap;
  };

  bool whole(int64_t ox) const { return axes_.cols.count(ox) == w_.kernel_w; }

  bool pool_row_fast() {
    if (!std::is_same_v<Switch, uint8_t> || rows_.empty()) return false;
    if (w_.kernel_h == 3 && w_.kernel_w == 3) return pool_fixed<3>();
    if (w_.kernel_h == 2 && w_.kernel_w == 2) return pool_fixed<2>();
    return false;
  }

  template <int K>
  bool pool_fixed() {
    if (s_.channels_last) {
      if (lanes_ < least_neighbours<C>) return false;
      for (int64_t ox = 0; ox < begin_; ++ox) pool_pixel<K>(ox);
      if (begin_ < end_) {
        pool_neighbours<K * K, 1>(taps_of<K>(begin_), begin_ * lanes_, lanes_, end_ - begin_);
      }
      for (int64_t ox = end_; ox < s_.out_w; ++ox) pool_pixel<K>(ox);
      return true;
    }
    if (w_.stride_w > 2 || end_ - begin_ < least_neighbours<C>) return false;
    const auto taps = taps_of<K>(begin_);
    for (int64_t ox = 0; ox < begin_; ++ox) pool_one(ox);
    if (w_.stride_w == 1) {
      pool_neighbours<K * K, 1>(taps, begin_, end_ - begin_);
    } else {
      pool_neighbours<K * K, 2>(taps, begin_, end_ - begin_);
    }
    for (int64_t ox = end_; ox < s_.out_w; ++ox) pool_one(ox);
    return true;
  }

  template <int K>
  void pool_pixel(int64_t ox) {
    if (axes_.cols.count(ox) == 0) return pool_one_pixel(ox);
    pool_neighbours<K * K, 1>(taps_of<K>(ox), ox * lanes_, lanes_);
  }

  // The K x K taps of window `ox`, those outside replaced.
  template <int K>
  TapList<C, K * K> taps_of(int64_t ox) const {
    TapList<C, K * K> taps;
    const Meeting* cols = axes_.cols.begin(ox);
    const int64_t last_row = static_cast<int64_t>(rows_.size()) - 1,
                  last = axes_.cols.count(ox) - 1;
    for (int ky = 0; ky < K; ++ky) {
      const TapRow& row = rows_[std::clamp<int64_t>(ky - rows_[0].tap, 0, last_row)];
      for (int kx = 0; kx < K; ++kx) {
        const Meeting& col = cols[std::clamp<int64_t>(kx - cols[0].tap, 0, last)];
        taps.at[ky * K + kx] = row.x + col.at * lanes_;
        taps.code[ky * K + kx] = row.tap * K + col.tap;
      }
    }
    return taps;
  }

  template <int Taps, int Stride>
  void pool_neighbours(const TapList<C, Taps>& taps, int64_t first, int64_t count,
                       int64_t runs = 1) {
    if constexpr (std::is_same_v<Switch, uint8_t>) {
      ZF_PICK(pool_taps<C, Taps, Stride>)
      (taps, lowest<C>(p_.relu), y_ + first, switches_ + first, count, runs, w_.stride_w * lanes_);
    }
  }

  // contiguous: the window at column `ox`, by itself.
  void pool_one(int64_t ox) {
    C best = lowest<C>(p_.relu);
    int32_t code = -1;
    for (const TapRow& row : rows_) {
      for (auto col = axes_.cols.begin(ox); col != axes_.cols.end(ox); ++col) {
        const C value = row.x[col->at];
        const bool take = replaces(value, best);
        if (take) best = value;
        if (take || code < 0) code = row.tap * static_cast<int32_t>(w_.kernel_w) + col->tap;
      }
    }
    y_[ox] = code < 0 ? lowest<C>(false) : best;
    switches_[ox] = static_cast<Switch>(code);
  }

  // channels_last: the windows of one pixel, tap by tap.
  void pool_one_pixel(int64_t ox) {
    C* best = y_ + ox * lanes_;
    int32_t* code = code_.data() + ox * lanes_;
    const auto fold = ZF_PICK(fold_tap<C>);
    std::fill_n(best, lanes_, lowest<C>(p_.relu));
    std::fill_n(code, lanes_, -1);
    for (const TapRow& row : rows_) {
      for (auto col = axes_.cols.begin(ox); col != axes_.cols.end(ox); ++col) {
        const int32_t tap = row.tap * static_cast<int32_t>(w_.kernel_w) + col->tap;
        fold(row.x + col->at * lanes_, 1, tap, best, code, lanes_);
      }
    }
    for (int64_t i = 0; i < lanes_; ++i) {
      if (code[i] < 0) best[i] = lowest<C>(false);
      switches_[ox * lanes_ + i] = static_cast<Switch>(code[i]);
    }
  }

  // Any window.
  void pool_any() {
    for (int64_t ox = 0; ox < s_.out_w; ++ox) {
      if (lanes_ > 1) {
        pool_one_pixel(ox);
      } else if (ox < begin_ || ox >= end_) {
        pool_one(ox);
      }
    }
    if (lanes_ == 1 && begin_ < end_) pool_run();
  }

  // contiguous: all whole windows, tap by tap along the row.
  void pool_run() {
    const int64_t count = end_ - begin_;
    C* best = y_ + begin_;
    const auto fold = ZF_PICK(fold_tap<C>);
    std::fill_n(best, count, lowest<C>(p_.relu));
    std::fill_n(code_.begin(), count, -1);
    for (const TapRow& row : rows_) {
      for (auto col = axes_.cols.begin(begin_); col != axes_.cols.end(begin_); ++col) {
        const int32_t tap = row.tap * static_cast<int32_t>(w_.kernel_w) + col->tap;
        fold(row.x + col->at, w_.stride_w, tap, best, code_.data(), count);
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      if (code_[i] < 0) best[i] = lowest<C>(false);
      switches_[begin_ + i] = static_cast<Switch>(code_[i]);
    }
  }

  const MaxPoolParams& p_;
  const PoolShape& s_;
  const PoolWindow& w_;
  const PoolAxes& axes_;
  int64_t lanes_;
  int64_t begin_ = 0, end_ = 0;  // the windows whose columns are all inside
  RowReader<T> reader_;
  RowWriter<T> writer_;
  std::vector<int32_t> code_;
  // The row at work.
  std::vector<TapRow> rows_;
  C* y_ = nullptr;
  Switch* switches_ = nullptr;
};

template <class T, class Switch>
void run(const MaxPoolParams& p) {
  const PoolShape& s = p.shape;
  if (s.batch * s.channels == 0) return;
  const PoolAxes axes(s);
  const int64_t planes = s.batch * (s.channels_last ? 1 : s.channels);
  const int64_t row_work = s.in_w * s.window.stride_h * (s.channels_last ? s.channels : 1);
  parallel_for(0, planes * s.out_h, grain_of(row_work), [&](int64_t begin, int64_t end) {
    Pooler<T, Switch> pooler(p, axes);
    for_each_row(begin, end, s.out_h,
                 [&](int64_t plane, int64_t row) { pooler.pool_row(plane, row); });
  });
}

}  // namespace

void max_pool2d(const MaxPoolParams& p) {
  with_dtype(p.shape.dtype, [&]<class T>(T) {
    with_switch_type(p.shape.wide_switches, [&]<class Switch>(Switch) { run<T, Switch>(p); });
  });
}

}  // namespace zfcuda::cpu
