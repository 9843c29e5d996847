#include "core/dispatch.h"
#include "core/maxima.h"
#include "cuda/launch.h"

namespace zfcuda::cuda {

// A thread looks through one piece of a map: every `pieces`-th element, so that neighbouring
// threads read neighbours; in channels_last neighbours are channels.
template <class T, class Index>
struct LargestOfPiece {
  // Loads under way at a time, since a comparison waits for the one before.
  static constexpr int ahead = 8;

  SpatialMaxParams p;

  ZF_HOST_DEVICE void operator()(Index i) const {
    const Index pieces = p.pieces, channels = p.channels, spatial = p.spatial;
    const Index piece = p.channels_last ? i / channels % pieces : i % pieces;
    const Index image = i / channels / pieces,
                plane = p.channels_last ? image * channels + i % channels : i / pieces;
    const Index step = p.channels_last ? channels : 1;
    const T* x = static_cast<const T*>(p.x) +
                 (p.channels_last ? image * channels * spatial + i % channels : plane * spatial);
    T best = x[piece * step];
    Index place = piece;
    const auto offer = [&](T value, Index at) {
      if (!surpasses(widen(value), widen(best))) return;
      best = value;
      place = at;
    };
    Index at = piece + pieces;
    for (; at + (ahead - 1) * pieces < spatial; at += ahead * pieces) {
      T values[ahead];
      ZF_UNROLL
      for (int k = 0; k < ahead; ++k) values[k] = x[(at + k * pieces) * step];
      ZF_UNROLL
      for (int k = 0; k < ahead; ++k) offer(values[k], at + k * pieces);
    }
    for (; at < spatial; at += pieces) offer(x[at * step], at);
    static_cast<T*>(p.piece_values)[plane * pieces + piece] = best;
    p.piece_places[plane * pieces + piece] = place;
  }
};

// A thread compares the pieces of one map.
template <class T, class Index>
struct LargestOfPieces {
  SpatialMaxParams p;

  ZF_HOST_DEVICE void operator()(Index plane) const {
    const Index pieces = p.pieces, end = (plane + 1) * pieces;
    const T* values = static_cast<const T*>(p.piece_values);
    Index best = plane * pieces;
    for (Index i = best + 1; i < end; ++i) {
      if (precedes(widen(values[i]), p.piece_places[i], widen(values[best]), p.piece_places[best]))
        best = i;
    }
    static_cast<T*>(p.values)[plane] = values[best];
    p.places[plane] = p.piece_places[best];
  }
};

template <class T, class Index>
int spatial_max_indexed(const SpatialMaxParams& p, const Launch& launch) {
  const int64_t planes = p.batch * p.channels;
  const int status = launch(LargestOfPiece<T, Index>{p}, static_cast<Index>(planes * p.pieces));
  // Pieces that are whole maps were written where the result is.
  if (status != 0 || p.pieces == 1) return status;
  return launch(LargestOfPieces<T, Index>{p}, static_cast<Index>(planes));
}

int spatial_max(const SpatialMaxParams& p, Stream stream) {
  const bool small = fits_int32(p.batch * p.channels * p.spatial);
  return with_dtype(p.dtype, [&]<class T>(T) {
    return with_index(small, [&]<class Index>(Index) {
      return spatial_max_indexed<T, Index>(p, Launch{stream});
    });
  });
}

}  // namespace zfcuda::cuda
