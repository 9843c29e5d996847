#include "ops/pooling.h"
#include "ops/windows.h"

namespace zfcuda {
namespace {

void pool_windows(const Tensor& base, const std::vector<Tensor>& patches, const Tensor& windows,
                  const Tensor& out, int64_t largest, Ints kernel_size, Ints stride, Ints padding,
                  Ints dilation, bool relu) {
  constexpr const char* op = "pool_windows";
  check_base(op, "base", base);
  auto laid = windows_of(op, patches, windows, out, largest, base.size(3));
  check_out_channels(op, out, base.size(3));
  check_like(op, "base", base, out);
  set_base(laid, base);
  const PoolWindowsParams params{
      .map = laid.params,
      .window = checked_window(op, {kernel_size, stride, padding, dilation}),
      .relu = relu,
  };
  ZF_RUN(pool_windows, out, params);
}

ZF_OP(pool_windows, "(Tensor base, " ZF_LAID ", " ZF_POOL_WINDOW ", bool relu) -> ()")

}  // namespace
}  // namespace zfcuda
