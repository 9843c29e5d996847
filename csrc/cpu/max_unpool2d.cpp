#include <ATen/Parallel.h>
#include <torch/library.h>

#include <atomic>
#include <utility>
#include <vector>

#include "common/dispatch.h"
#include "common/prepare.h"
#include "core/unpooling.h"
#include "cpu/level.h"
#include "cpu/rows.h"

namespace zfcuda::cpu {
namespace {

// One window, or one row of windows, that may send to the outputs at work: those whose switch is
// `tap`.
template <class T>
struct Source {
  const T* y;
  const uint8_t* switches;
  int tap;
};

}  // namespace
}  // namespace zfcuda::cpu

#define ZF_LOOPS "cpu/max_unpool2d_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

template <class T>
inline constexpr int64_t least_neighbours = 16 / sizeof(T);

// The pooled rows over the output row at work, widened and gated where that is asked for.
// Consecutive output rows share them, so what was computed is kept.
template <class T>
class PooledRows {
  using C = Compute<T>;

 public:
  PooledRows(const MaxUnpoolParams& p, int64_t length)
      : p_(p), length_(length), values_(p.shape.window.kernel_h, length), gates_(1, length) {
    if (p.gate) gated_.resize(p.shape.window.kernel_h * length);
    held_.assign(p.shape.window.kernel_h, -1);
    rows_.resize(p.shape.window.kernel_h);
  }

  // Row `row` of all pooled rows of the tensor, counted through.
  const C* row(int64_t row) {
    const T* y = static_cast<const T*>(p_.y) + row * length_;
    if (computes_in_place<T> && !p_.gate) return values_.read(y, 0);
    const int64_t slot = row % static_cast<int64_t>(held_.size());
    if (held_[slot] == row) return rows_[slot];
    held_[slot] = row;
    rows_[slot] = values_.read(y, slot);
    if (p_.gate) {
      const C* gate = gates_.read(static_cast<const T*>(p_.gate) + row * length_, 0);
      C* out = gated_.data() + slot * length_;
      ZF_PICK(gate_row<C>)(rows_[slot], gate, out, length_);
      rows_[slot] = out;
    }
    return rows_[slot];
  }

 private:
  const MaxUnpoolParams& p_;
  int64_t length_;
  RowReader<T> values_, gates_;
  std::vector<C> gated_;
  std::vector<int64_t> held_;
  std::vector<const C*> rows_;
};

// Unpools one output row at a time; `lanes_` as in max_pool2d.cpp.
template <class T, class Switch, bool Overwrite>
class Unpooler {
  using C = Compute<T>;

  struct PooledRow {
    const C* y;
    const Switch* switches;
    int64_t first_tap;
  };

 public:
  explicit Unpooler(const MaxUnpoolParams& params)
      : p_(params),
        s_(params.shape),
        w_(params.shape.window),
        lanes_(s_.channels_last ? s_.channels : 1),
        pooled_(params, s_.out_w * lanes_),
        writer_(s_.in_w * lanes_) {}

  void unpool_row(int64_t plane, int64_t row) {
    find_rows(plane, row);
    T* target = static_cast<T*>(p_.x) + (plane * s_.in_h + row) * s_.in_w * lanes_;
    x_ = writer_.begin(target);
    const bool done =
        std::is_same_v<Switch, uint8_t> && (lanes_ > 1 ? unpool_pixels() : unpool_columns());
    if (!done) unpool_any();
    writer_.finish(target);
  }

 private:
  // The pooled rows with a tap on this one, in raster order.
  void find_rows(int64_t plane, int64_t row) {
    rows_.clear();
    const auto over =
        windows_over(row, w_.kernel_h, w_.stride_h, w_.padding_h, w_.dilation_h, s_.out_h);
    for (int64_t oy = over.begin; oy < over.end; ++oy) {
      const int64_t ky = tap_on(row, oy, w_.stride_h, w_.padding_h, w_.dilation_h);
      if (ky < 0) continue;
      const int64_t at = plane * s_.out_h + oy;
      const auto* switches = static_cast<const Switch*>(p_.switches) + at * s_.out_w * lanes_;
      rows_.push_back({pooled_.row(at), switches, ky * w_.kernel_w});
    }
  }

  // channels_last: the channels of a pixel share their sources.
  bool unpool_pixels() {
    if (lanes_ < least_neighbours<C>) return false;
    for (int64_t ix = 0; ix < s_.in_w; ++ix) {
      sources_.clear();
      const auto over =
          windows_over(ix, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w, s_.out_w);
      for (const PooledRow& row : rows_) {
        for (int64_t ox = over.begin; ox < over.end; ++ox) {
          const int64_t kx = tap_on(ix, ox, w_.stride_w, w_.padding_w, w_.dilation_w);
          if (kx >= 0) add_source(sources_, row, ox * lanes_, kx);
        }
      }
      unpool_line_of(ix * lanes_, lanes_);
    }
    return true;
  }

  // contiguous: neighbouring columns (stride 1) or column pairs (stride 2) whose windows are all
  // inside share their sources; the few others are done one by one.
  bool unpool_columns() {
    const int64_t stride = w_.stride_w, kernel = w_.kernel_w;
    if (stride > 2 || w_.dilation_w != 1 || kernel > 8) return false;
    // In padded coordinates: step j holds columns stride * j ... stride * j + stride - 1, whose
    // windows are j - reach ... j.
    const int64_t reach = (kernel - 1) / stride;
    const int64_t begin = std::max(reach, (w_.padding_w + stride - 1) / stride);
    const int64_t end = std::min(s_.out_w, (s_.in_w + w_.padding_w) / stride);
    if (end - begin < least_neighbours<C>) return false;
    sources_.clear();
    odd_.clear();
    for (const PooledRow& row : rows_) {
      for (int64_t back = reach; back >= 0; --back) {
        if (back * stride < kernel) add_source(sources_, row, begin - back, back * stride);
        if (stride == 2 && back * 2 + 1 < kernel) add_source(odd_, row, begin - back, back * 2 + 1);
      }
    }
    const int64_t first = begin * stride - w_.padding_w, last = end * stride - w_.padding_w;
    for (int64_t ix = 0; ix < first; ++ix) unpool_one(ix);
    if (stride == 1) {
      unpool_line_of(first, end - begin);
    } else if constexpr (std::is_same_v<Switch, uint8_t>) {
      ZF_PICK(unpool_pairs<C, Overwrite>)
      (sources_.data(), static_cast<int>(sources_.size()), odd_.data(),
       static_cast<int>(odd_.size()), p_.relu, x_ + first, end - begin);
    }
    for (int64_t ix = last; ix < s_.in_w; ++ix) unpool_one(ix);
    return true;
  }

  static void add_source(std::vector<Source<C>>& to, const PooledRow& row, int64_t at, int64_t kx) {
    if constexpr (std::is_same_v<Switch, uint8_t>) {
      to.push_back({row.y + at, row.switches + at, static_cast<int>(row.first_tap + kx)});
    }
  }

  void unpool_line_of(int64_t first, int64_t count) {
    ZF_PICK(unpool_line<C, Overwrite>)
    (sources_.data(), static_cast<int>(sources_.size()), p_.relu, x_ + first, count);
  }

  void unpool_one(int64_t ix) {
    const auto over =
        windows_over(ix, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w, s_.out_w);
    C sum = 0;
    for (const PooledRow& row : rows_) {
      for (int64_t ox = over.begin; ox < over.end; ++ox) {
        const int64_t kx = tap_on(ix, ox, w_.stride_w, w_.padding_w, w_.dilation_w);
        if (kx < 0 || row.switches[ox] != static_cast<Switch>(row.first_tap + kx)) continue;
        sum = Overwrite ? row.y[ox] : sum + row.y[ox];
      }
    }
    x_[ix] = p_.relu ? rectified(sum) : sum;
  }

  // Any geometry. Taps run backwards, so that every output meets its windows in raster order.
  void unpool_any() {
    std::fill_n(x_, s_.in_w * lanes_, C(0));
    for (const PooledRow& row : rows_) {
      for (int64_t kx = w_.kernel_w - 1; kx >= 0; --kx) {
        const int64_t shift = kx * w_.dilation_w - w_.padding_w;
        const int64_t from = shift < 0 ? (-shift + w_.stride_w - 1) / w_.stride_w : 0;
        const int64_t to =
            shift < s_.in_w ? std::min(s_.out_w, (s_.in_w - 1 - shift) / w_.stride_w + 1) : 0;
        if (from < to) send(row, kx, shift, from, to);
      }
    }
    if (p_.relu) ZF_PICK(rectify_row<C>)(x_, s_.in_w * lanes_);
  }

  void send(const PooledRow& row, int64_t kx, int64_t shift, int64_t from, int64_t to) {
    const auto send_tap = ZF_PICK(send_tap<C, Switch, Overwrite>);
    const auto tap = static_cast<int32_t>(row.first_tap + kx);
    if (lanes_ == 1) {
      send_tap(row.y + from, row.switches + from, tap, x_ + from * w_.stride_w + shift, w_.stride_w,
               to - from);
      return;
    }
    for (int64_t ox = from; ox < to; ++ox) {
      send_tap(row.y + ox * lanes_, row.switches + ox * lanes_, tap,
               x_ + (ox * w_.stride_w + shift) * lanes_, 1, lanes_);
    }
  }

  const MaxUnpoolParams& p_;
  const PoolShape& s_;
  const PoolWindow& w_;
  int64_t lanes_;
  PooledRows<T> pooled_;
  RowWriter<T> writer_;
  // The row at work.
  C* x_ = nullptr;
  std::vector<PooledRow> rows_;
  std::vector<Source<C>> sources_, odd_;
};

template <class T, class Switch, bool Overwrite>
void run(const MaxUnpoolParams& p) {
  const PoolShape& s = p.shape;
  const int64_t planes = s.batch * (s.channels_last ? 1 : s.channels);
  const int64_t row_work = s.in_w * (s.channels_last ? s.channels : 1);
  if (s.batch * s.channels == 0) return;
  at::parallel_for(0, planes * s.in_h, grain_of(row_work), [&](int64_t begin, int64_t end) {
    Unpooler<T, Switch, Overwrite> unpooler(p);
    for (int64_t i = begin; i < end; ++i) unpooler.unpool_row(i / s.in_h, i % s.in_h);
  });
}

void run(const MaxUnpoolParams& p) {
  with_dtype(p.shape.dtype, [&]<class T>(T) {
    with_switch_type(p.shape.wide_switches, [&]<class Switch>(Switch) {
      return p.overwrite ? run<T, Switch, true>(p) : run<T, Switch, false>(p);
    });
  });
}

// The common case of check_switches at the price of one read of the switches.
void check_byte_switches(const at::Tensor& switches, int64_t taps) {
  std::atomic<bool> found{switches.scalar_type() != at::kByte};
  if (!found) {
    const at::Tensor bytes =
        switches.is_non_overlapping_and_dense() ? switches : switches.contiguous();
    const auto* data = bytes.const_data_ptr<uint8_t>();
    at::parallel_for(0, bytes.numel(), 1 << 18, [&](int64_t begin, int64_t end) {
      if (ZF_PICK(any_beyond)(data + begin, static_cast<uint8_t>(taps), end - begin)) found = true;
    });
  }
  if (found) check_switches(switches, taps);
}

at::Tensor max_unpool2d(const at::Tensor& y, const at::Tensor& switches,
                        at::IntArrayRef kernel_size, at::IntArrayRef stride,
                        at::IntArrayRef padding, at::IntArrayRef dilation,
                        at::IntArrayRef output_size, bool relu, bool overwrite,
                        bool /*check: the CPU always does*/) {
  const auto call = prepare_max_unpool2d(y, switches, {kernel_size, stride, padding, dilation},
                                         output_size, relu, overwrite);
  check_byte_switches(switches, kernel_size[0] * kernel_size[1]);
  run(call.params);
  return call.out;
}

at::Tensor max_pool2d_backward(const at::Tensor& grad, const at::Tensor& switches,
                               const std::optional<at::Tensor>& y, at::IntArrayRef kernel_size,
                               at::IntArrayRef stride, at::IntArrayRef padding,
                               at::IntArrayRef dilation, at::IntArrayRef input_size) {
  const auto call = prepare_max_pool2d_backward(
      grad, switches, y, {kernel_size, stride, padding, dilation}, input_size);
  run(call.params);
  return call.out;
}

at::Tensor max_unpool2d_backward(const at::Tensor& grad, const at::Tensor& switches,
                                 const std::optional<at::Tensor>& out, at::IntArrayRef kernel_size,
                                 at::IntArrayRef stride, at::IntArrayRef padding,
                                 at::IntArrayRef dilation, bool overwrite) {
  const auto call = prepare_max_unpool2d_backward(
      grad, switches, out, {kernel_size, stride, padding, dilation}, overwrite);
  const MaxUnpoolBackwardParams& p = call.params;
  const PoolShape& s = p.shape;
  with_dtype(s.dtype, [&]<class T>(T) {
    with_switch_type(s.wide_switches, [&]<class Switch>(Switch) {
      auto* grad_y = static_cast<T*>(p.grad_y);
      const int64_t rows = s.batch * s.channels * s.out_h;
      at::parallel_for(0, rows, grain_of(s.out_w), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i / s.out_h / s.channels, c = i / s.out_h % s.channels,
                        oy = i % s.out_h;
          for (int64_t ox = 0; ox < s.out_w; ++ox) {
            const int64_t at =
                element_at(s.channels_last, n, c, oy, ox, s.channels, s.out_h, s.out_w);
            grad_y[at] = unpool_backward_at<T, Switch, int64_t>(p, n, c, oy, ox);
          }
        }
      });
    });
  });
  return call.out;
}

TORCH_LIBRARY_IMPL(zfcuda, CPU, m) {
  m.impl("max_unpool2d", max_unpool2d);
  m.impl("max_pool2d_backward", max_pool2d_backward);
  m.impl("max_unpool2d_backward", max_unpool2d_backward);
}

}  // namespace
}  // namespace zfcuda::cpu
