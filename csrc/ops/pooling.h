#pragma once

#include "stable.h"

// What the pooling and unpooling ops share: the window's checks, and what their planes must be.

namespace zfcuda {

#define ZF_POOL_WINDOW \
  "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation"

struct PoolArguments {
  Ints kernel_size, stride, padding, dilation;
};

// The window as a kernel takes it.
PoolWindow checked_window(const char* op, const PoolArguments& arguments);

// Switches are bytes as long as the taps fit.
ScalarType switch_dtype(const PoolWindow& window);
void check_switch_dtype(const char* op, const Tensor& switches, const PoolWindow& window);

// Switches [N,C,OH,OW] of this window, where `like` is.
void check_switches_of(const char* op, const Tensor& switches, const PoolWindow& window,
                       const Tensor& like, Ints shape);

int64_t pooled_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                    bool ceil_mode);

// That a pooling with this window, with or without ceil_mode, takes a plane of size `in` to one of
// size `out`.
void check_pooled_from(const char* op, Ints in, Ints out, const PoolWindow& window,
                       const PoolArguments& arguments);

// Of planes like `large`'s, which is [N,C,..]; `in` is the size of what is pooled.
PoolShape pool_shape(const Tensor& large, Ints in, Ints out, const PoolWindow& window, DType dtype,
                     bool channels_last);

// What unpooling and the backward pass of pooling share.
struct Unpooling {
  MaxUnpoolParams params;
  Tensor out;
  std::array<Tensor, 3> operands;  // kept alive: y, switches and the gate, dense
};
Unpooling unpooling(const char* op, const Tensor& y, const Tensor& switches,
                    const std::optional<Tensor>& gate, const PoolArguments& arguments, Ints size,
                    bool channels_last);

}  // namespace zfcuda
