#include "ops/windows.h"

namespace zfcuda {
namespace {

int64_t channels_of(const char* op, const std::optional<Tensor>& base,
                    const std::vector<Tensor>& patches) {
  if (base) {
    check_base(op, "base", *base);
    return base->size(3);
  }
  ZF_CHECK(!patches.empty(), op, ": without a base there must be patches");
  check_rank(op, "patches", patches[0], 2, "[pixels,C]");
  return patches[0].size(1);
}

void gather_windows(const std::optional<Tensor>& base, const std::vector<Tensor>& patches,
                    const Tensor& windows, const Tensor& out, int64_t largest, int64_t channel,
                    double outside, bool add) {
  constexpr const char* op = "gather_windows";
  const int64_t channels = channels_of(op, base, patches);
  auto laid = windows_of(op, patches, windows, out, largest, channels);
  ZF_CHECK(channel >= 0 && channel <= out.size(1) - channels, op, ": ", channels, " channels from ",
           channel, " on do not fit out's ", out.size(1));
  if (base) {
    check_like(op, "base", *base, out);
    set_base(laid, *base);
  }
  const GatherWindowsParams params{
      .map = laid.params, .channel = channel, .outside = outside, .add = add};
  ZF_RUN(gather_windows, out, params);
}

ZF_OP(gather_windows, "(Tensor? base, " ZF_LAID ", SymInt channel, float outside, bool add) -> ()")

}  // namespace
}  // namespace zfcuda
