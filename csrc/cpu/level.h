#pragma once

#include <cstdlib>
#include <cstring>

// SIMD without tying the binary to one machine. A file of hot loops (cpu/*_loops.h) is compiled
// once per instruction set, into a namespace of its own, by naming it in ZF_LOOPS and including
// cpu/for_each_level.h; ZF_PICK then calls the copy that this machine can run. Loops files hold
// only free functions over raw pointers: anything from the standard library instantiated there
// could be shared, by the linker, with code that runs on older machines.

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ZF_LEVELS 1
#include <immintrin.h>
#endif

#define ZF_INLINE inline __attribute__((always_inline))

namespace zfcuda::cpu {

enum class Level { baseline, avx2, avx512 };

// What the kernels run with: the best that this machine has, or less where ZFCUDA_SIMD asks for it
// (avx2 or baseline; the tests do).
inline Level level() {
#if defined(ZF_LEVELS)
  static const Level found = [] {
    const char* wished = std::getenv("ZFCUDA_SIMD");
    const auto is = [&](const char* name) { return wished && std::strcmp(wished, name) == 0; };
    if (is("baseline") || !__builtin_cpu_supports("x86-64-v3")) return Level::baseline;
    if (is("avx2") || !__builtin_cpu_supports("x86-64-v4")) return Level::avx2;
    return Level::avx512;
  }();
  return found;
#else
  return Level::baseline;
#endif
}

inline const char* level_name() {
  switch (level()) {
    case Level::avx512:
      return "x86-64-v4 (AVX-512)";
    case Level::avx2:
      return "x86-64-v3 (AVX2)";
    default:
      return "baseline";
  }
}

#if defined(ZF_LEVELS)
#define ZF_PICK(...)          \
  (level() == Level::avx512   \
       ? &avx512::__VA_ARGS__ \
       : (level() == Level::avx2 ? &avx2::__VA_ARGS__ : &baseline::__VA_ARGS__))
#else
#define ZF_PICK(...) (&baseline::__VA_ARGS__)
#endif

}  // namespace zfcuda::cpu
