#pragma once

#include "common/host_device.h"

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

}  // namespace zfcuda
