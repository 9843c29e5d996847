#pragma once

#include <cstdint>

// The current cudaStream_t of a GPU; there in a torch that was built with CUDA. Without a header of
// torch's: those of its stable ABI and pybind11 exclude one another in torch 2.11.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                            void** stream);

namespace zfcuda {

// Whether torch has named it.
inline bool ask_for_stream(int32_t device, void** stream) {
  return aoti_torch_get_current_cuda_stream != nullptr &&
         aoti_torch_get_current_cuda_stream(device, stream) == 0;
}

}  // namespace zfcuda
