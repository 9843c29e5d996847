#pragma once

#include "stable.h"

// What the three ops on windows of maps under patches share: all they take but for their base.

namespace zfcuda {

#define ZF_LAID "Tensor[] patches, Tensor windows, Tensor(a!) out, SymInt largest"

// The shared parameters, and the tensors that they point into.
struct Windows {
  WindowsParams params;
  std::vector<Tensor> kept;
};

Windows windows_of(const char* op, const std::vector<Tensor>& patches, const Tensor& windows,
                   const Tensor& out, int64_t largest, int64_t channels);

// [N,H,W,C], of a size that kernels can address.
void check_base(const char* op, const char* name, const Tensor& base);

void set_base(Windows& windows, const Tensor& base);

// On `out`'s device, of its dtype, and elsewhere in memory.
void check_like(const char* op, const char* name, const Tensor& tensor, const Tensor& out);

void check_out_channels(const char* op, const Tensor& out, int64_t channels);

}  // namespace zfcuda
