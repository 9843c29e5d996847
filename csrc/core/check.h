#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

// Errors of what a caller gave. torch's Python side knows exceptions by their standard class: an
// invalid_argument is a ValueError there; an out_of_range an IndexError, of which
// zfcuda/ops/library.py makes the TypeError that it stands for here.

namespace zfcuda {

template <class... Args>
std::string sentence(const Args&... args) {
  std::ostringstream text;
  (text << ... << args);
  return text.str();
}

}  // namespace zfcuda

#define ZF_CHECK(condition, ...) \
  if (!(condition)) throw std::invalid_argument(::zfcuda::sentence(__VA_ARGS__))
#define ZF_CHECK_TYPE(condition, ...) \
  if (!(condition)) throw std::out_of_range(::zfcuda::sentence(__VA_ARGS__))
