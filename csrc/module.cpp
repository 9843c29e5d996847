#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>

#include "cpu/level.h"
#include "stream.h"
#include "zfcuda_build_facts.h"

// What Python asks of a build. The ops are in a library of their own, which knows nothing of
// Python.

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "What zfcuda's library of ops was built with, and what it runs with here.";
  m.def("simd_level", &zfcuda::cpu::level_name,
        "The instruction set the CPU kernels run with here.");
  m.def(
      "build_facts",
      [] {
        pybind11::dict facts;
        facts["cuda"] = static_cast<bool>(ZFCUDA_WITH_CUDA);
        facts["cuda_verdict"] = ZFCUDA_CUDA_VERDICT;
        return facts;
      },
      "What this build was made with.");
  m.def(
      "stream_handle",
      [](int device) {
        void* stream = nullptr;
        if (!zfcuda::ask_for_stream(device, &stream)) {
          throw std::runtime_error("zfcuda: asking for the current CUDA stream failed");
        }
        return reinterpret_cast<uintptr_t>(stream);
      },
      "The cudaStream_t that an op on this GPU would be launched on now, as a number.");
}
