#pragma once

#include <cstdint>

#include "core/host_device.h"

// The largest element of a map and where it is. NaN is above everything; of equal ones the first in
// raster order counts.

namespace zfcuda {

// Whether a later element takes the place of the best so far.
template <class T>
ZF_HOST_DEVICE bool surpasses(T candidate, T best) {
  return candidate > best || (candidate != candidate && best == best);
}

// The same for elements that come in any order.
template <class T, class Index>
ZF_HOST_DEVICE bool precedes(T candidate, Index at, T best, Index place) {
  return surpasses(candidate, best) || (!surpasses(best, candidate) && at < place);
}

// In how many pieces a GPU looks through the maps: as many as keep it busy, of 16 elements at
// least. A contiguous map has a warp's worth in any case, whose reads lie side by side.
inline int64_t pieces_of(int64_t planes, int64_t spatial, bool channels_last) {
  constexpr int64_t busy = int64_t{1} << 16, least = 16, warp = 32;
  const int64_t wanted = planes > 0 ? busy / planes : 1, at_least = channels_last ? 1 : warp;
  const int64_t most = spatial / least > 1 ? spatial / least : 1;
  const int64_t pieces = wanted > at_least ? wanted : at_least;
  return pieces < most ? pieces : most;
}

}  // namespace zfcuda
