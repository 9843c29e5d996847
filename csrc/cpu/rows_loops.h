// Conversions between 16-bit rows and float rows, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

template <class T>
void widen_row(const T* __restrict source, float* __restrict row, int64_t count) {
  for (int64_t i = 0; i < count; ++i) row[i] = static_cast<float>(source[i]);
}

template <class T>
void narrow_row(const float* __restrict row, T* __restrict target, int64_t count) {
  for (int64_t i = 0; i < count; ++i) target[i] = static_cast<T>(row[i]);
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
