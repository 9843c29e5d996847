// The inner loops of gathering windows, compiled once per instruction set.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// `pixels` tight pixels of `size` bytes copied to pixels `pitch` bytes apart. A call to memcpy for
// each would take longer than the copying.
void copy_pixels(const uint8_t* source, uint8_t* target, int64_t pixels, int64_t size,
                 int64_t pitch) {
  for (int64_t i = 0; i < pixels; ++i, source += size, target += pitch) {
    if (size < narrowest<uint8_t>) {
      for (int64_t b = 0; b < size; ++b) target[b] = source[b];
      continue;
    }
    cover<uint8_t>(size, [&]<int Lanes>(int64_t b) __attribute__((always_inline)) {
      store<uint8_t, Lanes>(target + b, load<uint8_t, Lanes>(source + b));
    });
  }
}

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
