#include "core/dispatch.h"
#include "core/normalising.h"
#include "core/scalar.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// contiguous, window of Size channels: a thread walks `segment` channels of V neighbouring
// positions with the last Size squares in registers, so every input is read once (and Size - 1 more
// times where segments meet, from the cache). Channels are asked for `ahead` steps before they are
// needed: with one load under way a thread, memory would wait for arithmetic.
template <class T, int Size, int V>
struct LrnColumn {
  using C = Compute<T>;
  using Index = int32_t;
  static constexpr bool many_registers = true;
  static constexpr int ahead = V > 1 ? 1 : 3;
  LrnParams p;
  int segment;

  ZF_HOST_DEVICE void operator()(Index i) const {
    constexpr int below = Size / 2, above = (Size - 1) / 2;
    const Index spatial = p.spatial, groups = spatial / V, channels = p.channels;
    const Index segments = (channels + segment - 1) / segment;
    const Index s = i % groups * V, begin = i / groups % segments * segment,
                n = i / groups / segments;
    const Index end = begin + segment < channels ? begin + segment : channels;
    const T* x = static_cast<const T*>(p.x) + n * channels * spatial + s;
    T* out = static_cast<T*>(p.out) + n * channels * spatial + s;
    const Index last = end + above < channels ? end + above : channels;  // that is read
    const C alpha = static_cast<C>(p.alpha), beta = static_cast<C>(p.beta), k = static_cast<C>(p.k);
    const bool negative = may_be_negative(p.alpha, p.k);

    C value[above + 1][V];  // channels c ... c + above
    C square[Size][V];      // of channels c - below ... c + above
    Pack<T, V> next[ahead];
    ZF_UNROLL
    for (int j = 0; j < ahead; ++j) next[j] = read(x, begin + above + j, last, spatial);
    ZF_UNROLL
    for (int j = 0; j < Size; ++j) {
      // One short of the window: each step of the walk brings its last channel.
      const auto pack = read(x, begin + j - below - 1, last, spatial);
      ZF_UNROLL
      for (int v = 0; v < V; ++v) square[j][v] = widen(pack.lane[v]);
      if (j >= below) {
        ZF_UNROLL
        for (int v = 0; v < V; ++v) value[j - below][v] = square[j][v];
      }
      ZF_UNROLL
      for (int v = 0; v < V; ++v) square[j][v] *= square[j][v];
    }
    for (Index c = begin; c < end; ++c) {
      ZF_UNROLL
      for (int j = 0; j + 1 < Size; ++j) {
        ZF_UNROLL
        for (int v = 0; v < V; ++v) square[j][v] = square[j + 1][v];
      }
      ZF_UNROLL
      for (int j = 0; j < above; ++j) {
        ZF_UNROLL
        for (int v = 0; v < V; ++v) value[j][v] = value[j + 1][v];
      }
      const auto pack = next[0];
      ZF_UNROLL
      for (int j = 0; j + 1 < ahead; ++j) next[j] = next[j + 1];
      next[ahead - 1] = read(x, c + above + ahead, last, spatial);
      Pack<T, V> result;
      ZF_UNROLL
      for (int v = 0; v < V; ++v) {
        value[above][v] = widen(pack.lane[v]);
        square[Size - 1][v] = value[above][v] * value[above][v];
        C sum = 0;
        ZF_UNROLL
        for (int j = 0; j < Size; ++j) sum += square[j][v];
        result.lane[v] = static_cast<T>(over_power(value[0][v], k + alpha * sum, beta, negative));
      }
      store_pack(out + c * spatial, result);
    }
  }

 private:
  // Channel c; zeros where there is none.
  ZF_HOST_DEVICE static Pack<T, V> read(const T* x, Index c, Index last, Index spatial) {
    Pack<T, V> pack;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) pack.lane[v] = static_cast<T>(0.0f);
    if (c >= 0 && c < last) pack = load_pack<V>(x + c * spatial);
    return pack;
  }
};

// channels_last, window of Size channels: a thread normalises V channels of one pixel and reads
// Size - 1 around them.
template <class T, int Size, int V>
struct LrnPixel {
  using Index = int32_t;
  LrnParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    constexpr int below = Size / 2, above = (Size - 1) / 2;
    const Index channels = p.channels, groups = channels / V, c = i % groups * V,
                at = i / groups * channels;
    const T* x = static_cast<const T*>(p.x) + at;
    const C alpha = static_cast<C>(p.alpha), beta = static_cast<C>(p.beta), k = static_cast<C>(p.k);
    const bool negative = may_be_negative(p.alpha, p.k);
    const auto own = load_pack<V>(x + c);
    C square[V + Size - 1];
    ZF_UNROLL
    for (int j = 0; j < V + Size - 1; ++j) {
      const Index from = c + j - below;
      C value = 0;
      if (j >= below && j < below + V) {
        value = widen(own.lane[j >= below && j < below + V ? j - below : 0]);
      } else if (from >= 0 && from < channels) {
        value = widen(x[from]);
      }
      square[j] = value * value;
    }
    Pack<T, V> result;
    ZF_UNROLL
    for (int v = 0; v < V; ++v) {
      C sum = 0;
      ZF_UNROLL
      for (int j = 0; j <= below + above; ++j) sum += square[v + j];
      result.lane[v] =
          static_cast<T>(over_power(widen(own.lane[v]), k + alpha * sum, beta, negative));
    }
    store_pack(static_cast<T*>(p.out) + at + c, result);
  }
};

// Any window, either layout, forward and backward: a thread computes one element from the channels
// around it.
template <class T, class Index>
struct LrnElement {
  LrnParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    using C = Compute<T>;
    const Index channels = p.channels, spatial = p.spatial;
    const Index stride = p.channels_last ? 1 : spatial;
    const Index c = p.channels_last ? i % channels : i / spatial % channels;
    const T* x = static_cast<const T*>(p.x) + i - c * stride;
    const Index below = p.size / 2, above = (p.size - 1) / 2;
    const C alpha = static_cast<C>(p.alpha), beta = static_cast<C>(p.beta);
    const bool negative = may_be_negative(p.alpha, p.k);
    const C own = widen(x[c * stride]), scale = scale_of(x, c, stride);
    T* out = static_cast<T*>(p.out);
    if (!p.grad) {
      out[i] = static_cast<T>(over_power(own, scale, beta, negative));
      return;
    }
    const T* grad = static_cast<const T*>(p.grad) + i - c * stride;
    const Index from = c > above ? c - above : 0,
                to = c + below < channels - 1 ? c + below : channels - 1;
    C sum = 0;
    for (Index j = from; j <= to; ++j) {
      const C d = scale_of(x, j, stride);
      sum += over_power(widen(grad[j * stride]), d, beta, negative) * widen(x[j * stride]) / d;
    }
    const C direct = over_power(widen(grad[c * stride]), scale, beta, negative);
    out[i] = static_cast<T>(direct - 2 * alpha * beta * own * sum);
  }

 private:
  // k + alpha * the squares in channel c's window.
  ZF_HOST_DEVICE Compute<T> scale_of(const T* x, Index c, Index stride) const {
    using C = Compute<T>;
    const Index below = p.size / 2, above = (p.size - 1) / 2,
                last = static_cast<Index>(p.channels) - 1;
    C sum = 0;
    for (Index j = c > below ? c - below : 0; j <= (c + above < last ? c + above : last); ++j) {
      const C value = widen(x[j * stride]);
      sum += value * value;
    }
    return static_cast<C>(p.k) + static_cast<C>(p.alpha) * sum;
  }
};

template <class T, int V>
int lrn_columns(const LrnParams& p, const Launch& launch) {
  // Long enough that the channels read twice are few, short enough that a small batch still fills
  // the chip.
  constexpr int segment = 32;
  const int64_t segments = (p.channels + segment - 1) / segment;
  return launch(LrnColumn<T, 5, V>{p, segment},
                static_cast<int32_t>(p.batch * segments * (p.spatial / V)));
}

template <class T, int V>
int lrn_pixels(const LrnParams& p, const Launch& launch) {
  return launch(LrnPixel<T, 5, V>{p}, static_cast<int32_t>(p.batch * p.spatial * (p.channels / V)));
}

int local_response_norm(const LrnParams& p, Stream stream) {
  const Launch launch{stream};
  const int64_t elements = p.batch * p.channels * p.spatial;
  const bool small = fits_int32(elements);
  return with_dtype(p.dtype, [&]<class T>(T) {
    if (p.grad || p.size != 5 || !small) {
      return with_index(small, [&]<class Index>(Index) {
        return launch(LrnElement<T, Index>{p}, static_cast<Index>(elements));
      });
    }
    constexpr int wide = 16 / sizeof(T);
    const int64_t line = p.channels_last ? p.channels : p.spatial;
    const bool packed = aligned(p.x, line * sizeof(T)) && aligned(p.out, 0);
    if (p.channels_last)
      return packed ? lrn_pixels<T, wide>(p, launch) : lrn_pixels<T, 1>(p, launch);
    return packed ? lrn_columns<T, wide>(p, launch) : lrn_columns<T, 1>(p, launch);
  });
}

}  // namespace zfcuda::cuda
