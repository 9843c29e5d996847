#include "ops/pooling.h"
#include "ops/windows.h"

namespace zfcuda {
namespace {

void unpool_windows(const Tensor& switches, const std::vector<Tensor>& patches,
                    const Tensor& windows, const Tensor& out, int64_t largest, Ints kernel_size,
                    Ints stride, Ints padding, Ints dilation, bool relu, bool overwrite) {
  constexpr const char* op = "unpool_windows";
  check_base(op, "switches", switches);
  auto laid = windows_of(op, patches, windows, out, largest, switches.size(3));
  check_out_channels(op, out, switches.size(3));
  const PoolWindow window = checked_window(op, {kernel_size, stride, padding, dilation});
  check_switch_dtype(op, switches, window);
  check_device(op, "switches", switches, out);
  set_base(laid, switches);
  const UnpoolWindowsParams params{
      .map = laid.params,
      .window = window,
      .wide_switches = dtype_of(switches) == ScalarType::Int,
      .relu = relu,
      .overwrite = overwrite,
  };
  ZF_RUN(unpool_windows, out, params);
}

ZF_OP(unpool_windows,
      "(Tensor switches, " ZF_LAID ", " ZF_POOL_WINDOW ", bool relu, bool overwrite) -> ()")

}  // namespace
}  // namespace zfcuda
