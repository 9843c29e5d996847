#pragma once

#include <cmath>
#include <type_traits>

#include "core/host_device.h"

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

// Whether k + alpha * squares can be negative: -inf ** 0.75 is inf, which square roots do not give.
ZF_HOST_DEVICE bool may_be_negative(double alpha, double k) {
  return !(alpha >= 0.0 && k >= 0.0);
}

// x / value ** beta, by square roots for the exponents in use. Their inverses can be multiplied by;
// other powers' inverses may overflow or vanish where the quotient does not.
template <class C>
ZF_HOST_DEVICE C over_power(C x, C value, C beta, bool negative) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<C, float>) {
    const float inverse_root = rsqrtf(value);
    if (beta == 0.75f && !negative) return x * (inverse_root * fast_root(inverse_root));
    if (beta == 0.5f) return x * inverse_root;
  }
#endif
  using std::pow;
  using std::sqrt;
  if (beta == C(0.75) && !negative) {
    const C root = sqrt(value);
    return x * (C(1) / (root * sqrt(root)));
  }
  if (beta == C(0.5)) return x * (C(1) / sqrt(value));
  if (beta == C(1)) return x / value;
  if (beta == C(-0.5)) return x / (C(1) / sqrt(value));  // torch's: NaN for -inf
  return x / pow(value, beta);
}

}  // namespace zfcuda
