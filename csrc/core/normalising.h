#pragma once

#include <cmath>
#include <type_traits>

#include "common/host_device.h"

namespace zfcuda {

#if defined(__CUDA_ARCH__)
// The chip's own square root, within 2^-22 of the exact one: IEEE's takes ten instructions and a
// branch, and normalisation is bound by instructions.
__device__ __forceinline__ float fast_root(float value) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(value));
  return root;
}
#endif

// value ** -beta, by square roots for the exponents in use.
template <class C>
ZF_HOST_DEVICE C inverse_power(C value, C beta) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<C, float>) {
    const float inverse_root = rsqrtf(value);
    if (beta == 0.75f) return inverse_root * fast_root(inverse_root);
    if (beta == 0.5f) return inverse_root;
  }
#endif
  using std::pow;
  using std::sqrt;
  if (beta == C(0.75)) {
    const C root = sqrt(value);
    return C(1) / (root * sqrt(root));
  }
  if (beta == C(0.5)) return C(1) / sqrt(value);
  if (beta == C(1)) return C(1) / value;
  return pow(value, -beta);
}

}  // namespace zfcuda
