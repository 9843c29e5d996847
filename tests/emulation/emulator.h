// What a translated kernel (ptx_to_cpp.py) needs: a GPU thread, its loads and stores, and the
// arithmetic of PTX where C++'s differs.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>

struct Half {
  uint16_t raw;
};
struct Brain {
  uint16_t raw;
};

struct Thread {
  uint32_t tid, ctaid, ntid, nctaid;
  uint64_t linear;
  const char* kernel;
};

struct ParamSize {
  uint32_t bytes, alignment;
};

struct Kernel {
  const char* name;
  void (*run)(const Thread&, unsigned char* const*);
  uint32_t max_threads, param_count;
  ParamSize params[8];
};

// In runtime.cpp. A fault makes the launch fail.
extern "C" void zf_emu_fault(const char* what, uint64_t at, const char* kernel, uint64_t thread);
extern "C" void zf_emu_touch(uint64_t at, uint32_t bytes, bool writes, const Thread* t);
extern "C" bool zf_emu_races;
extern "C" void zf_emu_register(const Kernel* kernels, int count);

#define ZF_EMULATED(kernels, count)      \
  namespace {                            \
  [[gnu::constructor]] void announce() { \
    zf_emu_register(kernels, count);     \
  }                                      \
  }

namespace {

inline void fault(const char* what, uint64_t at, const Thread& t) {
  zf_emu_fault(what, at, t.kernel, t.linear);
}

template <class T, class S>
inline T bits(S s) {
  static_assert(sizeof(T) == sizeof(S));
  T t;
  std::memcpy(&t, &s, sizeof t);
  return t;
}

// A register read as T: bits of the same width, the lower ones of a wider integer register.
template <class T, class S>
inline T as(S s) {
  if constexpr (std::is_same_v<T, S>) {
    return s;
  } else if constexpr (std::is_same_v<T, bool>) {
    return s;
  } else if constexpr (sizeof(T) == sizeof(S)) {
    return bits<T>(s);
  } else {
    static_assert(std::is_integral_v<S>);
    if constexpr (std::is_integral_v<T>) {
      return static_cast<T>(s);
    } else if constexpr (sizeof(T) == 2) {
      return bits<T>(static_cast<uint16_t>(s));
    } else {
      static_assert(sizeof(T) == 4 && sizeof(S) == 8);
      return bits<T>(static_cast<uint32_t>(s));
    }
  }
}

// A value written to a register of type T: sign- or zero-extended by its own type.
template <class T, class S>
inline T to(S s) {
  if constexpr (std::is_same_v<T, S>) {
    return s;
  } else if constexpr (std::is_integral_v<T> && std::is_integral_v<S>) {
    return static_cast<T>(s);
  } else if constexpr (sizeof(T) == sizeof(S)) {
    return bits<T>(s);
  } else if constexpr (sizeof(S) == 2) {
    return static_cast<T>(bits<uint16_t>(s));
  } else {
    static_assert(std::is_integral_v<T> && sizeof(S) == 4);
    return static_cast<T>(bits<uint32_t>(s));
  }
}

inline void aligned(uint64_t at, uint32_t bytes, const Thread& t) {
  if (at % bytes) fault("misaligned access", at, t);
}

template <class T>
inline T load(uint64_t at, const Thread& t) {
  if (zf_emu_races) zf_emu_touch(at, sizeof(T), false, &t);
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof value);
  return value;
}

template <class T>
inline T load_param(uint64_t at, const Thread&) {
  T value;
  std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof value);
  return value;
}

template <class T>
inline void store(uint64_t at, T value, const Thread& t) {
  if (zf_emu_races) zf_emu_touch(at, sizeof(T), true, &t);
  std::memcpy(reinterpret_cast<void*>(at), &value, sizeof value);
}

template <class T>
inline void store_param(uint64_t at, T value, const Thread&) {
  std::memcpy(reinterpret_cast<void*>(at), &value, sizeof value);
}

// --- comparisons of floats: ordered ones are false with a NaN, the others true
// ---------------------

#define ZF_COMPARE(name, symbol)                           \
  template <class T>                                       \
  inline bool cmp_##name(T a, T b) {                       \
    return a symbol b && !std::isnan(a) && !std::isnan(b); \
  }                                                        \
  template <class T>                                       \
  inline bool cmp_##name##u(T a, T b) {                    \
    return a symbol b || std::isnan(a) || std::isnan(b);   \
  }
ZF_COMPARE(lt, <)
ZF_COMPARE(le, <=)
ZF_COMPARE(gt, >)
ZF_COMPARE(ge, >=)
ZF_COMPARE(eq, ==)
ZF_COMPARE(ne, !=)
template <class T>
inline bool cmp_num(T a, T b) {
  return !std::isnan(a) && !std::isnan(b);
}
template <class T>
inline bool cmp_nan(T a, T b) {
  return std::isnan(a) || std::isnan(b);
}

template <class T>
inline T std_fmin(T a, T b) {
  return std::fmin(a, b);
}
template <class T>
inline T std_fmax(T a, T b) {
  return std::fmax(a, b);
}
template <class T>
inline T std_nan_min(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::nan("") : std::fmin(a, b);
}
template <class T>
inline T std_nan_max(T a, T b) {
  return std::isnan(a) || std::isnan(b) ? std::nan("") : std::fmax(a, b);
}

// --- integers
// --------------------------------------------------------------------------------------

template <class T>
inline T quotient(T a, T b, const Thread& t) {
  if (b == 0) {
    fault("division by zero", 0, t);
    return static_cast<T>(-1);
  }
  if (std::is_signed_v<T> && b == static_cast<T>(-1))
    return static_cast<T>(0 - static_cast<uint64_t>(a));
  return static_cast<T>(a / b);
}
template <class T>
inline T remainder_(T a, T b, const Thread& t) {
  if (b == 0) {
    fault("division by zero", 0, t);
    return a;
  }
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <class T>
inline T shift_left(T a, uint32_t by) {
  return by >= sizeof(T) * 8 ? T(0) : static_cast<T>(a << by);
}
template <class T>
inline T shift_right(T a, uint32_t by) {
  if (by >= sizeof(T) * 8) return a < 0 ? static_cast<T>(-1) : T(0);
  return static_cast<T>(a >> by);
}
inline uint32_t funnel_l_wrap(uint32_t low, uint32_t high, uint32_t by) {
  by &= 31;
  return by ? (high << by) | (low >> (32 - by)) : high;
}
inline uint32_t funnel_r_wrap(uint32_t low, uint32_t high, uint32_t by) {
  by &= 31;
  return by ? (high << (32 - by)) | (low >> by) : low;
}
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t how) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t pick = how >> (4 * i) & 0xf;
    uint32_t byte = both >> (8 * (pick & 7)) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
    out |= byte << (8 * i);
  }
  return out;
}
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t out = 0;
  for (int i = 0; i < 32; ++i) {
    const int row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
    out |= (table >> row & 1) << i;
  }
  return out;
}

// --- conversions
// -----------------------------------------------------------------------------------

inline float widened(float x) {
  return x;
}
inline double widened(double x) {
  return x;
}
inline float widened(Half x) {
  return static_cast<float>(bits<_Float16>(x.raw));
}
inline float widened(Brain x) {
  return bits<float>(static_cast<uint32_t>(x.raw) << 16);
}
template <class T>
  requires std::is_integral_v<T>
inline T widened(T x) {
  return x;
}

template <class T, class S>
inline T convert(S source) {
  const auto x = widened(source);
  if constexpr (std::is_same_v<T, Half>) {
    return {bits<uint16_t>(static_cast<_Float16>(x))};
  } else if constexpr (std::is_same_v<T, Brain>) {
    static_assert(sizeof(x) == 4);
    if (std::isnan(x)) return {0x7fff};
    const uint32_t raw = bits<uint32_t>(x);
    return {static_cast<uint16_t>((raw + 0x7fff + (raw >> 16 & 1)) >> 16)};
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
inline T round_rzi(T x) {
  return std::trunc(x);
}
template <class T>
inline T round_rni(T x) {
  return std::nearbyint(x);
}
template <class T>
inline T round_rmi(T x) {
  return std::floor(x);
}
template <class T>
inline T round_rpi(T x) {
  return std::ceil(x);
}

// Out of range saturates, NaN gives 0 (of 64 bits the sign bit), unlike C++.
template <class T, class S>
inline T saturate(S x) {
  using L = std::numeric_limits<T>;
  if (std::isnan(x)) return sizeof(T) == 8 ? static_cast<T>(uint64_t{1} << 63) : T(0);
  if (x <= static_cast<S>(L::min())) return L::min();
  if (x >= static_cast<S>(L::max())) return L::max();
  return static_cast<T>(x);
}

inline double upper_half(double x) {
  return bits<double>(bits<uint64_t>(x) & 0xffffffff00000000ull);
}

}  // namespace
