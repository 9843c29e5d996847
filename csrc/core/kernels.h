#pragma once

#include <cstdint>

// What a kernel is given, whichever device it runs on, and its entries on both: raw pointers, int64
// sizes, no torch types. csrc/ops fills the params in after every check; kernels trust them.

namespace zfcuda {

enum class DType : int8_t { float32, float64, float16, bfloat16 };

// A pooling window: (height, width) pairs, spelt out.
struct PoolWindow {
  int64_t kernel_h, kernel_w;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
};

// The two planes a window connects. "in" is what is pooled, "out" what remains, also when
// unpooling.
struct PoolShape {
  int64_t batch, channels;
  int64_t in_h, in_w;
  int64_t out_h, out_w;
  PoolWindow window;
  DType dtype;
  bool wide_switches;  // int32 instead of uint8
  bool channels_last;
};

struct MaxPoolParams {
  PoolShape shape;
  const void* x;
  void* y;
  void* switches;
  bool relu;
};

struct MaxUnpoolParams {
  PoolShape shape;
  const void* y;
  const void* switches;
  const void* gate;  // null, or y-shaped: a value is sent only where the gate is not <= 0
  void* x;
  bool relu;
  bool overwrite;
  bool check;  // that every switch is a tap on the plane; the CPU kernel can
};

// The transpose of unpooling: every window fetches the gradient at its switch.
struct MaxUnpoolBackwardParams {
  PoolShape shape;
  const void* grad;  // [.., in_h, in_w]
  const void* switches;
  const void* gate;  // null, or grad-shaped: the unpooled output behind a fused ReLU
  void* grad_y;
  bool overwrite;
};

struct LrnParams {
  const void* x;
  const void* grad;  // null: forward
  void* out;
  int64_t batch, channels, spatial;
  int64_t size;
  double alpha, beta, k;  // alpha already divided by size
  DType dtype;
  bool channels_last;
};

// A row is one line of pixels of one channel (contiguous) or of all channels (channels_last);
// either way the occluder covers a contiguous piece of it.
struct OccludeParams {
  const void* x;
  const int64_t* boxes;  // [positions, 4]: y0, x0, y1, x1
  const void* fill;      // per channel, or an image in x's layout
  void* out;
  int64_t batch, positions, channels, height, width;
  int element_size;  // bytes
  bool fill_is_image;
  bool channels_last;
};

// One of the buffers that patches lie in.
struct PatchBuffer {
  const void* data;
  int64_t pixels;
};

// As many as fit into a kernel's arguments, so that no table has to be copied to a device.
inline constexpr int64_t most_patch_buffers = 128;

// What the ops on windows of maps under patches share. Everything is pixels: [.., channels].
struct WindowsParams {
  const void* base;  // [batch, height, width, channels], or null; switches when unpooling
  int64_t batch, height, width, channels;
  PatchBuffer buffers[most_patch_buffers];
  int64_t buffer_count;
  const int64_t* windows;  // [count, 13], see core/windows.h
  int64_t count, largest;
  void* out;  // [out_pixels, out_channels]
  int64_t out_pixels, out_channels;
  DType dtype;
};

struct GatherWindowsParams {
  WindowsParams map;
  int64_t channel;
  double outside;
  bool add;
};

struct PoolWindowsParams {
  WindowsParams map;
  PoolWindow window;
  bool relu;
};

struct UnpoolWindowsParams {
  WindowsParams map;
  PoolWindow window;
  bool wide_switches;
  bool relu;
  bool overwrite;
};

struct SpatialMaxParams {
  const void* x;
  void* values;     // [batch, channels]
  int64_t* places;  // [batch, channels], in raster order
  // The same of each of a map's pieces, [batch, channels, pieces]; of one piece, the result itself.
  void* piece_values;
  int64_t* piece_places;
  int64_t pieces;
  int64_t batch, channels, spatial;
  DType dtype;
  bool channels_last;
};

struct WarpParams {
  const void* x;           // forward: [batch, C, H, W]; backward: grad of the output
  const double* matrices;  // [maps, 2, 3]
  const void* fill;        // [channels]; unused in backward
  void* out;
  int64_t batch, maps, channels, height, width;
  DType dtype;
  bool channels_last;
};

namespace cuda {
using Stream = void*;  // a cudaStream_t, without its header
}

// Every kernel's entries: in cpu/NAME.cpp and in cuda/NAME.cu, whose result is a cudaError_t.
#define ZF_KERNEL(name, Params)             \
  namespace cpu {                           \
  void name(const Params& p);               \
  }                                         \
  namespace cuda {                          \
  int name(const Params& p, Stream stream); \
  }

ZF_KERNEL(max_pool2d, MaxPoolParams)
ZF_KERNEL(max_unpool2d, MaxUnpoolParams)  // and max_pool2d's backward
ZF_KERNEL(max_unpool2d_backward, MaxUnpoolBackwardParams)
ZF_KERNEL(local_response_norm, LrnParams)
ZF_KERNEL(occlude, OccludeParams)
ZF_KERNEL(spatial_max, SpatialMaxParams)
ZF_KERNEL(warp_affine, WarpParams)
ZF_KERNEL(warp_affine_backward, WarpParams)
ZF_KERNEL(gather_windows, GatherWindowsParams)
ZF_KERNEL(pool_windows, PoolWindowsParams)
ZF_KERNEL(unpool_windows, UnpoolWindowsParams)

#undef ZF_KERNEL

}  // namespace zfcuda
