
#include <vector>

#include "core/dispatch.h"
#include "core/pooling.h"
#include "cpu/axis.h"
#include "cpu/level.h"
#include "cpu/rows.h"
#include "cpu/source.h"
#include "cpu/windows.h"

#define ZF_LOOPS "cpu/unpool_line_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Unpools one row of a window at a time. Off the patch the signal is zero: where signals add up,
// pooling windows there are left out.
template <class T, class Switch, bool Overwrite>
class WindowUnpooler {
  using C = Compute<T>;

  // A pooled row with a tap on the row at work; `first_tap` is that row of taps' first.
  struct TapRow {
    const C* y;  // from the patch's column `begin_` on; null off the patch
    const Switch* switches;
    int32_t first_tap;
  };

 public:
  explicit WindowUnpooler(const UnpoolWindowsParams& p)
      : p_(p), m_(p.map), w_(p.window), zeros_(m_.channels) {}

  void enter(const WindowRow& row) {
    row_ = row.clipped(m_.height, m_.width);
    const Box& box = row_.box;
    columns_ = Meetings::of_inputs_between(box.x0, box.x1, m_.width, w_.kernel_w, w_.stride_w,
                                           w_.padding_w, w_.dilation_w);
    // The columns of the patch that can send to the window at all.
    const auto first = windows_over(box.x0, w_.kernel_w, w_.stride_w, w_.padding_w, w_.dilation_w,
                                    m_.width),
               last = windows_over(box.x1 - 1, w_.kernel_w, w_.stride_w, w_.padding_w,
                                   w_.dilation_w, m_.width);
    begin_ = std::max(row_.patch.x0, first.begin);
    end_ = std::max(begin_, std::min(row_.patch.x1, last.end));
  }

  void write(int64_t y, int64_t out) {
    find_rows(y);
    const int64_t channels = m_.channels, width = row_.box.width();
    T* target = static_cast<T*>(m_.out) + out * channels;
    if (rows_.empty()) {
      std::fill_n(target, width * channels, T(0));
      return;
    }
    for (int64_t i = 0; i < width; ++i) {
      find_senders(i);
      unpool_pixel(writer_.begin(target + i * channels, channels));
      writer_.finish();
    }
  }

 private:
  // Lists the pooled rows over row `y`.
  void find_rows(int64_t y) {
    rows_.clear();
    const auto over =
        windows_over(y, w_.kernel_h, w_.stride_h, w_.padding_h, w_.dilation_h, m_.height);
    if (over.begin < over.end) reader_.hold((over.end - over.begin) * row_length());
    const Box& patch = row_.patch;
    for (int64_t oy = over.begin; oy < over.end; ++oy) {
      const int64_t tap = tap_on(y, oy, w_.stride_h, w_.padding_h, w_.dilation_h);
      const bool patched = row_.has_patch() && begin_ < end_ && oy >= patch.y0 && oy < patch.y1;
      if (tap < 0 || (!patched && !Overwrite)) continue;
      const Switch* switches = static_cast<const Switch*>(m_.base) +
                               (row_.image * m_.height + oy) * m_.width * m_.channels;
      rows_.push_back(
          {patched ? signal(oy) : nullptr, switches, static_cast<int32_t>(tap * w_.kernel_w)});
    }
  }

  int64_t row_length() const { return (end_ - begin_) * m_.channels; }

  // Row `oy` of the patch from column `begin_` on.
  const C* signal(int64_t oy) {
    const Box& patch = row_.patch;
    const int64_t pixel = row_.offset + (oy - patch.y0) * row_.pitch + (begin_ - patch.x0);
    const T* from = static_cast<const T*>(m_.buffers[row_.buffer].data) + pixel * m_.channels;
    return reader_.read(from, static_cast<int64_t>(rows_.size()) * row_length(), row_length());
  }

  // Lists the pooling windows that send to the `i`th pixel of the row, in raster order.
  void find_senders(int64_t i) {
    senders_.clear();
    for (const TapRow& row : rows_) {
      for (auto over = columns_.begin(i); over != columns_.end(i); ++over) {
        const bool patched = row.y && over->at >= begin_ && over->at < end_;
        if (!patched && !Overwrite) continue;
        senders_.push_back({patched ? row.y + (over->at - begin_) * m_.channels : zeros_.data(),
                            row.switches + over->at * m_.channels, row.first_tap + over->tap});
      }
    }
  }

  void unpool_pixel(C* x) {
    if constexpr (std::is_same_v<Switch, uint8_t>) {
      if (m_.channels >= static_cast<int64_t>(16 / sizeof(C))) {
        ZF_PICK(unpool_line<C, Overwrite>)
        (senders_.data(), static_cast<int>(senders_.size()), p_.relu, x, m_.channels);
        return;
      }
    }
    std::fill_n(x, m_.channels, C(0));
    for (const auto& sender : senders_) {
      ZF_PICK(send_tap<C, Switch, Overwrite>)
      (sender.y, sender.switches, sender.tap, x, m_.channels);
    }
    if (p_.relu) ZF_PICK(rectify_row<C>)(x, m_.channels);
  }

  const UnpoolWindowsParams& p_;
  const WindowsParams& m_;
  const PoolWindow& w_;
  WindowRow row_{};
  int64_t begin_ = 0, end_ = 0;
  Meetings columns_;  // the pooling windows over each of the window's columns
  std::vector<TapRow> rows_;
  std::vector<Source<C, Switch>> senders_;
  std::vector<C> zeros_;
  RowReader<T> reader_;
  RowWriter<T> writer_;
};

template <class T, class Switch>
void run(const UnpoolWindowsParams& p, const WindowList& list) {
  if (p.overwrite) {
    list.for_each_row(p.map, [&] { return WindowUnpooler<T, Switch, true>(p); });
  } else {
    list.for_each_row(p.map, [&] { return WindowUnpooler<T, Switch, false>(p); });
  }
}

}  // namespace

void unpool_windows(const UnpoolWindowsParams& p) {
  const WindowList list("unpool_windows", p.map);
  with_dtype(p.map.dtype, [&]<class T>(T) {
    with_switch_type(p.wide_switches, [&]<class Switch>(Switch) { run<T, Switch>(p, list); });
  });
}

}  // namespace zfcuda::cpu
