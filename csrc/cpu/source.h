#pragma once

#include <cstdint>

namespace zfcuda::cpu {

// One window, or one row of windows, that may send to the outputs at work: those whose switch is
// `tap`.
template <class T, class Switch = uint8_t>
struct Source {
  const T* y;
  const Switch* switches;
  int tap;
};

}  // namespace zfcuda::cpu
