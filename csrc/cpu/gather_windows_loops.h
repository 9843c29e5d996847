// The inner loops of gathering windows, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// `pixels` tight pixels of `channels` values added to pixels `pitch` values apart. In the compute
// type, rounded once.
template <class C, class T>
void add_pixels(const T* __restrict source, T* __restrict target, int64_t pixels, int64_t channels,
                int64_t pitch) {
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      target[i * pitch + c] = static_cast<T>(static_cast<C>(target[i * pitch + c]) +
                                             static_cast<C>(source[i * channels + c]));
    }
  }
}

// The same pixel, the value `source`, added to all.
template <class C, class T>
void add_value(C value, T* __restrict target, int64_t pixels, int64_t channels, int64_t pitch) {
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t c = 0; c < channels; ++c) {
      target[i * pitch + c] = static_cast<T>(static_cast<C>(target[i * pitch + c]) + value);
    }
  }
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
