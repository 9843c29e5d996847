#include "core/maxima.h"
#include "stable.h"

namespace zfcuda {
namespace {

std::tuple<Tensor, Tensor> spatial_max(const Tensor& x) {
  constexpr const char* op = "spatial_max";
  const DType dtype = checked_dtype(op, "x", x);
  check_rank(op, "x", x, 4, "[N,C,H,W]");
  const int64_t planes = x.size(0) * x.size(1), spatial = x.size(2) * x.size(3);
  ZF_CHECK(spatial > 0 || planes == 0, op, ": a map without elements has no maximum, got shape ",
           text(x.sizes()));

  const bool channels_last = is_channels_last(x);
  const std::array<int64_t, 2> shape{x.size(0), x.size(1)};
  const Tensor values = empty(x, shape, dtype_of(x)), places = empty(x, shape, ScalarType::Long);
  const int64_t pieces = on_gpu(x) ? pieces_of(planes, spatial, channels_last) : 1;
  Tensor piece_values = values, piece_places = places;
  if (pieces > 1) {
    const std::array<int64_t, 2> table{planes, pieces};
    piece_values = empty(x, table, dtype_of(x));
    piece_places = empty(x, table, ScalarType::Long);
  }
  const Tensor input = dense(x, channels_last);
  const SpatialMaxParams params{
      .x = input.const_data_ptr(),
      .values = values.mutable_data_ptr(),
      .places = places.mutable_data_ptr<int64_t>(),
      .piece_values = piece_values.mutable_data_ptr(),
      .piece_places = piece_places.mutable_data_ptr<int64_t>(),
      .pieces = pieces,
      .batch = x.size(0),
      .channels = x.size(1),
      .spatial = spatial,
      .dtype = dtype,
      .channels_last = channels_last,
  };
  if (planes > 0) ZF_RUN(spatial_max, values, params);
  return {values, places};
}

ZF_OP(spatial_max, "(Tensor x) -> (Tensor values, Tensor places)")

}  // namespace
}  // namespace zfcuda
