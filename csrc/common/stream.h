#pragma once

#include <c10/core/Device.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace zfcuda {

// The current stream of a device as its runtime's own handle (a cudaStream_t), for devices that
// have streams. Device-generic, so that it links against a CPU torch too.
inline void* current_stream(c10::Device device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStream(device).native_handle();
}

}  // namespace zfcuda
