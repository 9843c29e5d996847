#include <algorithm>

#include "common/checks.h"
#include "common/prepare.h"

namespace zfcuda {

Call<LrnParams> prepare_lrn(const at::Tensor& x, const std::optional<at::Tensor>& grad,
                            int64_t size, double alpha, double beta, double k) {
  constexpr const char* op = "local_response_norm";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  TORCH_CHECK_VALUE(size >= 1, op, ": size must be at least 1, got ", size);

  // Beyond both ends of the channels there is nothing to sum: a larger window is this one.
  const int64_t widest = 2 * x.size(1) + size % 2;

  const at::MemoryFormat layout = layout_of(x);
  Call<LrnParams> call;
  call.out = empty_like_device(x, x.sizes(), x.scalar_type(), layout);
  call.operands = {x.contiguous(layout)};
  if (grad) {
    check_shape(op, "grad", *grad, x.sizes());
    check_device(op, "grad", *grad, x);
    call.operands[1] = grad->to(x.scalar_type()).contiguous(layout);
  }
  call.params = {call.operands[0].const_data_ptr(),
                 grad ? call.operands[1].const_data_ptr() : nullptr,
                 call.out.mutable_data_ptr(),
                 x.size(0),
                 x.size(1),
                 x.size(2) * x.size(3),
                 std::min(size, std::max<int64_t>(widest, 1)),
                 alpha / static_cast<double>(size),
                 beta,
                 k,
                 dtype,
                 layout == at::MemoryFormat::ChannelsLast};
  return call;
}

}  // namespace zfcuda
