#pragma once

#include <atomic>
#include <cstdint>

#include "core/host_device.h"
#include "core/kernels.h"

// A kernel here is a body: a functor of one index that needs no cooperation between threads.
// Compiled by nvcc, a thread of the device runs it; the same .cu file compiled as C++ loops over
// the index on the host, which is how the tests run every body without a GPU.

namespace zfcuda::cuda {

// Tests run the kernels of 2^30 elements and more on small tensors: int64 indices for every call.
inline std::atomic<bool> int64_only{false};

// int32 indices only where every index, and the grid's last stride beyond it, fits.
inline bool fits_int32(int64_t elements) {
  return elements < (int64_t{1} << 30) && !int64_only.load(std::memory_order_relaxed);
}

inline bool fits_int32(const PoolShape& s) {
  return fits_int32(s.batch * s.channels * s.in_h * s.in_w) &&
         fits_int32(s.batch * s.channels * s.out_h * s.out_w);
}

// The same call for a body that knows channels_last only: contiguous planes are images of one
// channel.
template <class Params>
Params of_pixels(Params p) {
  PoolShape& s = p.shape;
  if (s.channels_last) return p;
  s.batch *= s.channels;
  s.channels = 1;
  s.channels_last = true;
  return p;
}

// Whether accesses of `bytes` at multiples of `stride_bytes` from `pointer` are aligned.
inline bool aligned(const void* pointer, int64_t stride_bytes, int64_t bytes = 16) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && stride_bytes % bytes == 0;
}

// Calls run.operator()<V, Index>(): `wide` lanes where accesses are packed, else one; one, and
// int64 indices, where `small` is false, for calls so large are few.
template <int wide, class Run>
int with_lanes(bool packed, bool small, const Run& run) {
  if (!small) return run.template operator()<1, int64_t>();
  return packed ? run.template operator()<wide, int32_t>() : run.template operator()<1, int32_t>();
}

#if defined(__CUDACC__)

inline constexpr int threads_per_block = 256;

// Blocks that a multiprocessor must be able to hold: bounds the registers, 64 a thread with 4 and
// 128 with 2. With no bound at all ptxas spills a few bytes wherever that brings it down to 32.
template <class Body, class Index>
inline constexpr int least_blocks =
    sizeof(Index) > 4 || requires { requires Body::many_registers; } ? 2 : 4;

template <class Body, class Index>
__global__ void __launch_bounds__(threads_per_block, (least_blocks<Body, Index>))
    run_body(const __grid_constant__ Body body, const Index count) {
  const Index step = static_cast<Index>(gridDim.x) * threads_per_block;
  for (Index i = static_cast<Index>(blockIdx.x) * threads_per_block + threadIdx.x; i < count;
       i += step)
    body(i);
}

// Runs body(0) ... body(count - 1) on a stream and returns the launch's cudaError_t.
struct Launch {
  Stream stream;

  template <class Body, class Index>
  int operator()(const Body& body, Index count) const {
    if (count == 0) return 0;
    constexpr int64_t most_blocks = int64_t{1} << 20;
    const int64_t blocks =
        (static_cast<int64_t>(count) + threads_per_block - 1) / threads_per_block;
    run_body<Body, Index><<<static_cast<unsigned>(blocks < most_blocks ? blocks : most_blocks),
                            threads_per_block, 0, static_cast<cudaStream_t>(stream)>>>(body, count);
    return static_cast<int>(cudaGetLastError());
  }
};

#else

// A kernel that nvcc makes of the same source, and how often it was run here.
struct Kernel {
  static inline Kernel* first = nullptr;
  const char* name;
  std::atomic<int64_t> runs = 0;
  Kernel* next;

  explicit Kernel(const char* name) : name(name), next(first) { first = this; }
};

template <class Body, class Index>
struct KernelOf {
  static const char* name() { return __PRETTY_FUNCTION__; }
  static inline Kernel kernel{name()};
};

struct Launch {
  Stream stream;  // the host has none

  template <class Body, class Index>
  int operator()(const Body& body, Index count) const {
    if (count > 0) ++KernelOf<Body, Index>::kernel.runs;
    for (Index i = 0; i < count; ++i) body(i);
    return 0;
  }
};

#endif

}  // namespace zfcuda::cuda

// What tests find by its name.
#define ZF_FOR_TESTS extern "C" __attribute__((used, visibility("default"))) inline

// Whether all indices of this library's kernels are int64.
ZF_FOR_TESTS void zfcuda_int64_only(bool on) {
  zfcuda::cuda::int64_only = on;
}

#if !defined(__CUDACC__)
// The name of the kernel after `last`, which becomes that kernel, and its runs; null after the end.
ZF_FOR_TESTS const char* zfcuda_next_kernel(const void** last, int64_t* runs) {
  using zfcuda::cuda::Kernel;
  const auto* kernel = *last ? static_cast<const Kernel*>(*last)->next : Kernel::first;
  if (!kernel) return nullptr;
  *last = kernel;
  *runs = kernel->runs;
  return kernel->name;
}
#endif
