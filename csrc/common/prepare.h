#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "common/params.h"
#include "core/pooling.h"

// From an op's arguments to a kernel's params: every check, every allocation, once for all devices.
// A Call owns the tensors its params point into.

namespace zfcuda {

struct PoolArguments {
  at::IntArrayRef kernel_size, stride, padding, dilation;
};

template <class Params>
struct Call {
  Params params;
  at::Tensor out;
  at::Tensor second_out;                 // max_pool2d's switches
  std::array<at::Tensor, 3> operands{};  // contiguous inputs, kept alive
  std::vector<at::Tensor> patches{};     // likewise
};

Call<MaxPoolParams> prepare_max_pool2d(const at::Tensor& x, const PoolArguments& window,
                                       bool ceil_mode, bool relu);

Call<MaxUnpoolParams> prepare_max_pool2d_backward(const at::Tensor& grad,
                                                  const at::Tensor& switches,
                                                  const std::optional<at::Tensor>& y,
                                                  const PoolArguments& window,
                                                  at::IntArrayRef input_size);

Call<MaxUnpoolParams> prepare_max_unpool2d(const at::Tensor& y, const at::Tensor& switches,
                                           const PoolArguments& window, at::IntArrayRef output_size,
                                           bool relu, bool overwrite);

Call<MaxUnpoolBackwardParams> prepare_max_unpool2d_backward(const at::Tensor& grad,
                                                            const at::Tensor& switches,
                                                            const std::optional<at::Tensor>& out,
                                                            const PoolArguments& window,
                                                            bool overwrite);

Call<LrnParams> prepare_lrn(const at::Tensor& x, const std::optional<at::Tensor>& grad,
                            int64_t size, double alpha, double beta, double k);

Call<OccludeParams> prepare_occlude(const at::Tensor& x, const at::Tensor& boxes,
                                    const at::Tensor& fill);

// In how many pieces maps are looked through: pieces_of(planes, spatial, channels_last).
using PiecesOf = int64_t (*)(int64_t, int64_t, bool);
Call<SpatialMaxParams> prepare_spatial_max(const at::Tensor& x, PiecesOf pieces_of);

Call<WarpParams> prepare_warp_affine(const at::Tensor& x, const at::Tensor& matrices,
                                     const at::Tensor& fill);

Call<WarpParams> prepare_warp_affine_backward(const at::Tensor& grad, const at::Tensor& matrices,
                                              bool channels_last);

Call<GatherWindowsParams> prepare_gather_windows(const std::optional<at::Tensor>& base,
                                                 at::TensorList patches, const at::Tensor& windows,
                                                 const at::Tensor& out, int64_t largest,
                                                 int64_t channel, double outside, bool add);

Call<PoolWindowsParams> prepare_pool_windows(const at::Tensor& base, at::TensorList patches,
                                             const at::Tensor& windows, const at::Tensor& out,
                                             int64_t largest, const PoolArguments& window,
                                             bool relu);

Call<UnpoolWindowsParams> prepare_unpool_windows(const at::Tensor& switches, at::TensorList patches,
                                                 const at::Tensor& windows, const at::Tensor& out,
                                                 int64_t largest, const PoolArguments& window,
                                                 bool relu, bool overwrite);

// What every pooling op checks of its window.
PoolWindow checked_window(const char* op, const PoolArguments& arguments);

// Switches are bytes as long as the taps fit.
void check_switch_dtype(const char* op, const at::Tensor& switches, const PoolWindow& window);

// A window with taps off the plane, and which of its taps along the axis are on it.
struct EdgeWindow {
  int64_t window;
  Range<int64_t> inside;
};

// All such windows along one axis: none where nothing is padded, a few otherwise.
std::vector<EdgeWindow> edge_windows(int64_t windows, int64_t kernel, int64_t stride,
                                     int64_t padding, int64_t dilation, int64_t size);

// Raises ValueError if any switch is neither a tap number nor "no tap", or points off the unpooled
// plane, where its value would be lost. Synchronises a CUDA device.
void check_switches(const at::Tensor& switches, const PoolShape& shape);

}  // namespace zfcuda
