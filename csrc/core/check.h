#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

// Errors of what a caller gave. torch's Python side knows exceptions by their standard class: an
// invalid_argument is a ValueError there, or from torch 2.15 on a RuntimeError; an out_of_range an
// IndexError. zfcuda/ops/library.py makes ValueErrors and TypeErrors of them, by the op's name that
// their text begins with.

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
