#include "core/dispatch.h"
#include "core/warping.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// contiguous: a thread finds the samples of V neighbouring pixels of an output row once and then
// writes all their channels.
template <class T, int V, class Index>
struct WarpColumns {
  static constexpr bool many_registers = true;
  WarpParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const auto height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
    const Index groups = width / V, copy = i / groups / height;
    const auto col = static_cast<int32_t>(i % groups * V),
               row = static_cast<int32_t>(i / groups % height);
    const Index maps = p.maps, channels = p.channels, plane = static_cast<Index>(height) * width;
    const auto line = SampleLine<C>::of(p.matrices + 6 * static_cast<int64_t>(copy % maps), row);
    Sample<C> sample[V];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) sample[v] = Sample<C>::at(line, col + v, height, width);
    const T* x = static_cast<const T*>(p.x) + copy / maps * channels * plane;
    T* out =
        static_cast<T*>(p.out) + copy * channels * plane + static_cast<Index>(row) * width + col;
    for (Index c = 0; c < channels; ++c) {
      const C fill = widen(static_cast<const T*>(p.fill)[c]);
      Pack<T, V> result;
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        result.lane[v] = static_cast<T>(sampled(sample[v], x + c * plane, 1, height, width, fill));
      }
      store_pack(out + c * plane, result);
    }
  }
};

// channels_last: a thread writes V channels of one pixel.
template <class T, int V, class Index>
struct WarpPixel {
  WarpParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const auto height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
    const Index channels = p.channels, groups = channels / V, c = i % groups * V,
                pixel = i / groups;
    const auto col = static_cast<int32_t>(pixel % width),
               row = static_cast<int32_t>(pixel / width % height);
    const Index copy = pixel / width / height, maps = p.maps;
    const auto line = SampleLine<C>::of(p.matrices + 6 * static_cast<int64_t>(copy % maps), row);
    const auto sample = Sample<C>::at(line, col, height, width);
    const T* x = static_cast<const T*>(p.x) +
                 copy / maps * channels * static_cast<Index>(height) * width + c;
    Pack<T, V> result;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      const C fill = widen(static_cast<const T*>(p.fill)[c + v]);
      result.lane[v] = static_cast<T>(sampled(sample, x + v, channels, height, width, fill));
    }
    store_pack(static_cast<T*>(p.out) + pixel * channels + c, result);
  }
};

// channels_last, Channels of them (a colour image's three): a thread writes all channels of V
// neighbouring pixels of a row, which are Channels packs, and finds their samples once.
template <class T, int Channels, int V>
struct WarpPixels {
  using Index = int32_t;
  static constexpr bool many_registers = true;
  WarpParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const auto height = static_cast<int32_t>(p.height), width = static_cast<int32_t>(p.width);
    const Index groups = width / V, copy = i / groups / height;
    const auto col = static_cast<int32_t>(i % groups * V),
               row = static_cast<int32_t>(i / groups % height);
    const Index maps = p.maps;
    const auto line = SampleLine<C>::of(p.matrices + 6 * static_cast<int64_t>(copy % maps), row);
    const T* x =
        static_cast<const T*>(p.x) + copy / maps * Channels * static_cast<Index>(height) * width;
    Pack<T, V> result[Channels];
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      const auto sample = Sample<C>::at(line, col + v, height, width);
      ZF_UNROLL
      for (int c = 0; c < Channels; ++c) {
        const C fill = widen(static_cast<const T*>(p.fill)[c]);
        const int at = v * Channels + c;
        result[at / V].lane[at % V] =
            static_cast<T>(sampled(sample, x + c, Channels, height, width, fill));
      }
    }
    T* out = static_cast<T*>(p.out) + i * (V * Channels);
    ZF_UNROLL
    for (int c = 0; c < Channels; ++c) store_pack(out + c * V, result[c]);
  }
};

template <class T, class Index>
struct WarpBackwardElement {
  static constexpr bool many_registers = true;
  WarpParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const Index channels = p.channels, height = p.height, width = p.width;
    const Index c = p.channels_last ? i % channels : i / width / height % channels;
    const Index place = p.channels_last ? i / channels : i;
    const auto col = static_cast<int32_t>(place % width),
               row = static_cast<int32_t>(place / width % height);
    static_cast<T*>(p.out)[i] = warp_backward_at<T>(p, i / width / height / channels, c, row, col);
  }
};

int warp_affine(const WarpParams& p, Stream stream) {
  const Launch launch{stream};
  const int64_t pixels = p.batch * p.maps * p.height * p.width;
  const bool small = fits_int32(pixels * p.channels);
  return with_dtype(p.dtype, [&]<class T>(T) {
    constexpr int wide = 16 / sizeof(T);
    if (p.channels_last && p.channels == 3 && small) {
      const bool packed = p.width % wide == 0 && aligned(p.out, 0);
      return packed ? launch(WarpPixels<T, 3, wide>{p}, static_cast<int32_t>(pixels / wide))
                    : launch(WarpPixels<T, 3, 1>{p}, static_cast<int32_t>(pixels));
    }
    const int64_t line = p.channels_last ? p.channels : p.width;
    return with_lanes<wide>(aligned(p.out, line * sizeof(T)), small, [&]<int V, class Index>() {
      if (p.channels_last)
        return launch(WarpPixel<T, V, Index>{p}, static_cast<Index>(pixels * (p.channels / V)));
      return launch(WarpColumns<T, V, Index>{p}, static_cast<Index>(pixels / V));
    });
  });
}

int warp_affine_backward(const WarpParams& p, Stream stream) {
  const int64_t count = p.batch * p.channels * p.height * p.width;
  return with_dtype(p.dtype, [&]<class T>(T) {
    return with_index(fits_int32(count), [&]<class Index>(Index) {
      return Launch{stream}(WarpBackwardElement<T, Index>{p}, static_cast<Index>(count));
    });
  });
}

}  // namespace zfcuda::cuda
