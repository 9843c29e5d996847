#include "common/checks.h"
#include "common/prepare.h"

namespace zfcuda {

Call<SpatialMaxParams> prepare_spatial_max(const at::Tensor& x, PiecesOf pieces_of) {
  constexpr const char* op = "spatial_max";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  const int64_t planes = x.size(0) * x.size(1), spatial = x.size(2) * x.size(3);
  TORCH_CHECK_VALUE(spatial > 0 || planes == 0, op,
                    ": a map without elements has no maximum, got shape ", x.sizes());

  const at::MemoryFormat layout = layout_of(x);
  const bool channels_last = layout == at::MemoryFormat::ChannelsLast;
  const int64_t pieces = pieces_of ? pieces_of(planes, spatial, channels_last) : 1;
  const auto flat = at::MemoryFormat::Contiguous;
  Call<SpatialMaxParams> call;
  call.out = empty_like_device(x, x.sizes().slice(0, 2), x.scalar_type(), flat);
  call.second_out = empty_like_device(x, x.sizes().slice(0, 2), at::kLong, flat);
  call.operands = {x.contiguous(layout), call.out, call.second_out};
  if (pieces > 1) {
    const std::array<int64_t, 2> shape{planes, pieces};
    call.operands[1] = empty_like_device(x, shape, x.scalar_type(), flat);
    call.operands[2] = empty_like_device(x, shape, at::kLong, flat);
  }
  call.params = {call.operands[0].const_data_ptr(),
                 call.out.mutable_data_ptr(),
                 call.second_out.mutable_data_ptr<int64_t>(),
                 call.operands[1].mutable_data_ptr(),
                 call.operands[2].mutable_data_ptr<int64_t>(),
                 pieces,
                 x.size(0),
                 x.size(1),
                 spatial,
                 dtype,
                 channels_last};
  return call;
}

}  // namespace zfcuda
