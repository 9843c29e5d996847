#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <cstdint>
#include <stdexcept>

namespace zfcuda::cpu {

// Calls f(begin, end) for pieces of at least `grain` of [begin, end), in torch's threads.
template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const F& f) {
  if (begin >= end) return;
  if (end - begin <= grain) return f(begin, end);
  const auto piece = [](int64_t first, int64_t last, void* context) {
    (*static_cast<const F*>(context))(first, last);
  };
  void* context = const_cast<void*>(static_cast<const void*>(&f));
  if (torch_parallel_for(begin, end, grain, piece, context) != 0) {
    throw std::runtime_error("zfcuda: a CPU kernel ran out of memory");
  }
}

}  // namespace zfcuda::cpu
