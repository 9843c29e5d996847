#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace zfcuda {

// Division of an index by a number that is known before the launch. Of int32 it is a product and a
// shift, where the division itself takes twenty instructions; of int64 it is the division.
template <class Index>
struct Divisor {
  struct Split {
    Index quotient, remainder;
  };

  Index by;

  explicit Divisor(int64_t by) : by(by) {}

  ZF_HOST_DEVICE Index quotient(Index i) const { return i / by; }

  ZF_HOST_DEVICE Split split(Index i) const {
    const Index q = quotient(i);
    return {q, i - q * by};
  }
};

// With factor = ceil(2^p / by) and p = 31 + ceil(log2(by)), factor * i / 2^p is exact for every i
// below 2^31 (Granlund and Montgomery, "Division by invariant integers using multiplication",
// 1994).
template <>
struct Divisor<int32_t> {
  struct Split {
    int32_t quotient, remainder;
  };

  int32_t by;
  uint32_t factor;
  int32_t shift;

  explicit Divisor(int64_t by) : by(static_cast<int32_t>(by)), factor(0), shift(0) {
    if (by <= 1) return;
    int power = 0;
    while (int64_t{1} << power < by) ++power;
    factor = static_cast<uint32_t>(((int64_t{1} << (31 + power)) + by - 1) / by);
    shift = power - 1;
  }

  ZF_HOST_DEVICE int32_t quotient(int32_t i) const {
    if (by == 1) return i;
    const uint64_t product = static_cast<uint64_t>(factor) * static_cast<uint32_t>(i);
    return static_cast<int32_t>(static_cast<uint32_t>(product >> 32) >> shift);
  }

  ZF_HOST_DEVICE Split split(int32_t i) const {
    const int32_t q = quotient(i);
    return {q, i - q * by};
  }
};

}  // namespace zfcuda
