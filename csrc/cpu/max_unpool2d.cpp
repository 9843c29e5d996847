#include <array>
#include <atomic>
#include <bit>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/switches.h"
#include "core/unpooling.h"
#include "cpu/axis.h"
#include "cpu/level.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "cpu/source.h"

#define ZF_LOOPS "cpu/max_unpool2d_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

template <class T>
inline constexpr int64_t least_neighbours = 16 / sizeof(T);

// What all rows share: the windows over every output row and column.
//
// contiguous at stride 1 or 2: the row of windows is continued on both sides by windows that send
// nothing (`left`, `right` of them), so that from column `first` on all columns have the same
// windows up to a shift, `stride` columns a step.
struct UnpoolAxes {
  int64_t left = 0, right = 0, first = 0, steps = 0;
  Meetings rows, cols;

  explicit UnpoolAxes(const PoolShape& s)
      : rows(Meetings::of_inputs(s.in_h, s.out_h, s.window.kernel_h, s.window.stride_h,
                                 s.window.padding_h, s.window.dilation_h)) {
    const PoolWindow& w = s.window;
    const int64_t stride = w.stride_w;
    if (!s.channels_last && !s.wide_switches && stride <= 2 && w.dilation_w == 1) {
      left = (w.kernel_w - 1) / stride;
      right = std::max<int64_t>(0, (s.in_w - 1 + w.padding_w) / stride - (s.out_w - 1));
      first = (stride - w.padding_w % stride) % stride;
      steps = (s.in_w - first) / stride;
    }
    cols = Meetings::of_inputs(s.in_w, left + s.out_w + right, w.kernel_w, stride,
                               w.padding_w + left * stride, w.dilation_w);
  }

  int64_t most_sources() const { return rows.most() * cols.most(); }
};

template <class C, class Switch>
struct PooledRow {
  const C* y;
  const Switch* switches;
};

// The pooled rows over the output row at work: the tensor's own memory, or where they are
// continued, widened or gated, a copy kept while the next output rows need it.
template <class T, class Switch>
class PooledRows {
  using C = Compute<T>;

 public:
  PooledRows(const MaxUnpoolParams& p, int64_t length, const UnpoolAxes& axes)
      : p_(p),
        length_(length),
        left_(axes.left),
        stride_(axes.left + length + axes.right),
        copied_(axes.left + axes.right > 0 || p.gate || !computes_in_place<T>),
        gates_(length) {
    if (!copied_) return;
    // A power of two, so that finding a row's slot takes no division.
    const auto slots = std::bit_ceil(static_cast<uint64_t>(axes.rows.widest()));
    held_.assign(slots, -1);
    y_.assign(slots * stride_, C(0));
    switches_.assign(slots * stride_, no_tap<Switch>);
  }

  // Row `row` of all pooled rows of the tensor, counted through.
  PooledRow<C, Switch> row(int64_t row) {
    const T* y = static_cast<const T*>(p_.y) + row * length_;
    const Switch* switches = static_cast<const Switch*>(p_.switches) + row * length_;
    if constexpr (computes_in_place<T>) {
      if (!copied_) return {y, switches};
    }
    const int64_t slot = row & static_cast<int64_t>(held_.size() - 1);
    C* copy = y_.data() + slot * stride_;
    Switch* switches_copy = switches_.data() + slot * stride_;
    if (held_[slot] != row) {
      held_[slot] = row;
      std::copy_n(switches, length_, switches_copy + left_);
      copy_gated(y, row, copy + left_);
    }
    return {copy, switches_copy};
  }

 private:
  void copy_gated(const T* y, int64_t row, C* to) {
    copy_row(y, to, length_);
    if (!p_.gate) return;
    const C* gate = gates_.read(static_cast<const T*>(p_.gate) + row * length_, 0, length_);
    ZF_PICK(gate_row<C>)(to, gate, length_);
  }

  const MaxUnpoolParams& p_;
  int64_t length_, left_, stride_;
  bool copied_;
  RowReader<T> gates_;
  std::vector<int64_t> held_;
  std::vector<C> y_;
  std::vector<Switch> switches_;
};

// Unpools one output row at a time; `lanes_` as in max_pool2d.cpp.
template <class T, class Switch, bool Overwrite>
class Unpooler {
  using C = Compute<T>;

  // A pooled row with a tap on the output row at work; `first_tap` is that row of taps' first.
  struct TapRow : PooledRow<C, Switch> {
    int32_t first_tap;
  };

 public:
  Unpooler(const MaxUnpoolParams& params, const UnpoolAxes& axes)
      : p_(params),
        s_(params.shape),
        axes_(axes),
        lanes_(s_.channels_last ? s_.channels : 1),
        pooled_(params, s_.out_w * lanes_, axes),
        even_(axes.most_sources()),
        odd_(axes.most_sources()),
        two_(ZF_PICK(unpool_pairs_of<C, Overwrite, 2>)),
        three_(ZF_PICK(unpool_pairs_of<C, Overwrite, 3>)) {}

  void unpool_row(int64_t plane, int64_t row) {
    rows_.clear();
    const auto kernel_w = static_cast<int32_t>(s_.window.kernel_w);
    for (auto over = axes_.rows.begin(row); over != axes_.rows.end(row); ++over) {
      rows_.push_back({{pooled_.row(plane * s_.out_h + over->at)}, over->tap * kernel_w});
    }
    T* target = static_cast<T*>(p_.x) + (plane * s_.in_h + row) * s_.in_w * lanes_;
    x_ = writer_.begin(target, s_.in_w * lanes_);
    if constexpr (std::is_same_v<Switch, uint8_t>) {
      if (lanes_ >= least_neighbours<C>) {
        unpool_pixels();
      } else if (lanes_ == 1 && axes_.steps >= least_neighbours<C>) {
        unpool_columns();
      } else {
        unpool_any();
      }
    } else {
      unpool_any();
    }
    writer_.finish();
  }

 private:
  // channels_last: the channels of a pixel share their sources.
  void unpool_pixels() {
    const auto unpool = ZF_PICK(unpool_line<C, Overwrite>);
    for (int64_t ix = 0; ix < s_.in_w; ++ix) {
      unpool(even_.data(), find_sources(ix, even_), p_.relu, x_ + ix * lanes_, lanes_);
    }
  }

  // contiguous: the run of columns at once, the others one by one.
  void unpool_columns() {
    const int64_t first = axes_.first, last = first + axes_.steps * s_.window.stride_w;
    for (int64_t ix = 0; ix < first; ++ix) unpool_one(ix);
    if (s_.window.stride_w == 1) {
      ZF_PICK(unpool_line<C, Overwrite>)
      (even_.data(), find_sources(first, even_), p_.relu, x_ + first, axes_.steps);
    } else {
      unpool_pairs_from(first);
    }
    for (int64_t ix = last; ix < s_.in_w; ++ix) unpool_one(ix);
  }

  void unpool_pairs_from(int64_t first) {
    const int64_t kernel = s_.window.kernel_w, rows = static_cast<int64_t>(rows_.size());
    if ((kernel == 2 || kernel == 3) && (rows == 1 || rows == 2)) {
      // The window that starts at column `first`, the last over it.
      const int64_t at = axes_.cols.end(first)[-1].at;
      for (int64_t r = 0; r < rows; ++r) {
        even_[r] = {rows_[r].y + at, rows_[r].switches + at, rows_[r].first_tap};
      }
      const auto unpool = kernel == 3 ? three_ : two_;
      return unpool(even_.data(), static_cast<int>(rows), p_.relu, x_ + first, axes_.steps);
    }
    const int evens = find_sources(first, even_), odds = find_sources(first + 1, odd_);
    ZF_PICK(unpool_pairs<C, Overwrite>)
    (even_.data(), evens, odd_.data(), odds, p_.relu, x_ + first, axes_.steps);
  }

  // Every window over column `ix`, in raster order; returns their number.
  int find_sources(int64_t ix, std::vector<Source<C>>& sources) const {
    const Meeting *begin = axes_.cols.begin(ix), *end = axes_.cols.end(ix);
    Source<C>* next = sources.data();
    for (const TapRow& row : rows_) {
      for (const Meeting* over = begin; over != end; ++over) {
        const int64_t at = over->at * lanes_;
        *next++ = {row.y + at, row.switches + at, row.first_tap + over->tap};
      }
    }
    return static_cast<int>(next - sources.data());
  }

  void unpool_one(int64_t ix) {
    const Meeting *begin = axes_.cols.begin(ix), *end = axes_.cols.end(ix);
    C sum = 0;
    for (const TapRow& row : rows_) {
      for (const Meeting* over = begin; over != end; ++over) {
        if (row.switches[over->at] != static_cast<Switch>(row.first_tap + over->tap)) continue;
        sum = Overwrite ? row.y[over->at] : sum + row.y[over->at];
      }
    }
    x_[ix] = p_.relu ? rectified(sum) : sum;
  }

  // Any geometry.
  void unpool_any() {
    if (lanes_ == 1) {
      for (int64_t ix = 0; ix < s_.in_w; ++ix) unpool_one(ix);
      return;
    }
    const auto send = ZF_PICK(send_tap<C, Switch, Overwrite>);
    std::fill_n(x_, s_.in_w * lanes_, C(0));
    for (int64_t ix = 0; ix < s_.in_w; ++ix) {
      for (const TapRow& row : rows_) {
        for (auto over = axes_.cols.begin(ix); over != axes_.cols.end(ix); ++over) {
          const int64_t at = over->at * lanes_;
          send(row.y + at, row.switches + at, row.first_tap + over->tap, x_ + ix * lanes_, lanes_);
        }
      }
    }
    if (p_.relu) ZF_PICK(rectify_row<C>)(x_, s_.in_w * lanes_);
  }

  const MaxUnpoolParams& p_;
  const PoolShape& s_;
  const UnpoolAxes& axes_;
  int64_t lanes_;
  PooledRows<T, Switch> pooled_;
  RowWriter<T> writer_;
  // The row at work.
  C* x_ = nullptr;
  std::vector<TapRow> rows_;
  std::vector<Source<C>> even_, odd_;
  // 2x2 and 3x3 windows at stride 2.
  void (*two_)(const Source<C>*, int, bool, C*, int64_t);
  void (*three_)(const Source<C>*, int, bool, C*, int64_t);
};

template <class T, class Switch, bool Overwrite>
void run(const MaxUnpoolParams& p) {
  const PoolShape& s = p.shape;
  if (s.batch * s.channels == 0) return;
  const UnpoolAxes axes(s);
  const int64_t planes = s.batch * (s.channels_last ? 1 : s.channels);
  const int64_t row_work = s.in_w * (s.channels_last ? s.channels : 1);
  parallel_for(0, planes * s.in_h, grain_of(row_work), [&](int64_t begin, int64_t end) {
    Unpooler<T, Switch, Overwrite> unpooler(p, axes);
    for_each_row(begin, end, s.in_h,
                 [&](int64_t plane, int64_t row) { unpooler.unpool_row(plane, row); });
  });
}

void run(const MaxUnpoolParams& p) {
  with_dtype(p.shape.dtype, [&]<class T>(T) {
    with_switch_type(p.shape.wide_switches, [&]<class Switch>(Switch) {
      return p.overwrite ? run<T, Switch, true>(p) : run<T, Switch, false>(p);
    });
  });
}

// Whether a switch of the few windows with taps off the plane is one of those.
bool any_off_the_plane(const PoolShape& s, const uint8_t* switches) {
  const PoolWindow& w = s.window;
  const auto rows =
      edge_windows(s.out_h, w.kernel_h, w.stride_h, w.padding_h, w.dilation_h, s.in_h);
  const auto columns =
      edge_windows(s.out_w, w.kernel_w, w.stride_w, w.padding_w, w.dilation_w, s.in_w);
  if (rows.empty() && columns.empty()) return false;
  std::array<uint8_t, 256> column_of{};
  for (int64_t tap = 0; tap < 256; ++tap) {
    column_of[tap] = static_cast<uint8_t>(tap % w.kernel_w);
  }
  const auto lost = [](uint8_t tap, int64_t step, const Range<int64_t>& inside) {
    return !inside.holds(step) && tap != no_tap<uint8_t>;
  };
  const int64_t lanes = s.channels_last ? s.channels : 1, line = s.out_w * lanes;
  std::atomic<bool> found{false};
  const int64_t planes = s.batch * (s.channels_last ? 1 : s.channels);
  const int64_t work = static_cast<int64_t>(rows.size()) * line +
                       static_cast<int64_t>(columns.size()) * lanes * s.out_h;
  parallel_for(0, planes, grain_of(work), [&](int64_t begin, int64_t end) {
    bool any = false;
    for (int64_t plane = begin; plane < end; ++plane) {
      const uint8_t* first = switches + plane * s.out_h * line;
      for (const auto& [row, inside] : rows) {
        // In taps, so that no element is divided.
        const Range<int64_t> taps{inside.begin * w.kernel_w, inside.end * w.kernel_w};
        const uint8_t* at = first + row * line;
        for (int64_t i = 0; i < line; ++i) any |= lost(at[i], at[i], taps);
      }
      for (const auto& [column, inside] : columns) {
        for (int64_t row = 0; row < s.out_h; ++row) {
          const uint8_t* at = first + row * line + column * lanes;
          for (int64_t i = 0; i < lanes; ++i) any |= lost(at[i], column_of[at[i]], inside);
        }
      }
    }
    if (any) found = true;
  });
  return found;
}

// check_switches at the price of one read of the switches, where they are bytes, and another of the
// plane's border.
void check_switches_fast(const MaxUnpoolParams& p) {
  const PoolShape& s = p.shape;
  if (s.wide_switches) return check_switches(s, p.switches);
  const int64_t taps = s.window.kernel_h * s.window.kernel_w;
  const int64_t count = s.batch * s.channels * s.out_h * s.out_w;
  const auto* data = static_cast<const uint8_t*>(p.switches);
  std::atomic<bool> found{false};
  parallel_for(0, count, 1 << 18, [&](int64_t begin, int64_t end) {
    if (ZF_PICK(any_beyond)(data + begin, static_cast<uint8_t>(taps), end - begin)) found = true;
  });
  if (found || any_off_the_plane(s, data)) check_switches(s, data);
}

template <class T>
void run_backward(const MaxUnpoolBackwardParams& p) {
  const PoolShape& s = p.shape;
  auto* grad_y = static_cast<T*>(p.grad_y);
  const int64_t rows = s.batch * s.channels * s.out_h;
  parallel_for(0, rows, grain_of(s.out_w), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / s.out_h / s.channels, c = i / s.out_h % s.channels, oy = i % s.out_h;
      for (int64_t ox = 0; ox < s.out_w; ++ox) {
        const int64_t at = element_at(s.channels_last, n, c, oy, ox, s.channels, s.out_h, s.out_w);
        grad_y[at] = unpool_backward_at<T, int64_t>(p, n, c, oy, ox);
      }
    }
  });
}

}  // namespace

void max_unpool2d(const MaxUnpoolParams& p) {
  if (p.check) check_switches_fast(p);
  run(p);
}

void max_unpool2d_backward(const MaxUnpoolBackwardParams& p) {
  with_dtype(p.shape.dtype, [&]<class T>(T) { run_backward<T>(p); });
}

}  // namespace zfcuda::cpu
