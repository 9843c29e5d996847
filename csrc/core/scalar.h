#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "core/host_device.h"

namespace zfcuda {

// The type a kernel computes in: 16-bit values are widened to float.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class T>
ZF_HOST_DEVICE Compute<T> widen(T value) {
  return static_cast<Compute<T>>(value);
}

// N neighbours moved by one access of sizeof(T) * N bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T lane[N];
};

template <int N, class T>
ZF_HOST_DEVICE Pack<T, N> load_pack(const T* at) {
  return *reinterpret_cast<const Pack<T, N>*>(at);
}

template <int N, class T>
ZF_HOST_DEVICE void store_pack(T* at, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(at) = pack;
}

}  // namespace zfcuda
