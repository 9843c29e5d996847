#pragma once

#include <cmath>

#include "common/host_device.h"

namespace zfcuda {

// value ** -beta, by square roots for the exponents in use.
template <class C>
ZF_HOST_DEVICE C inverse_power(C value, C beta) {
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
