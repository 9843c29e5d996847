#include <pybind11/pybind11.h>
#include <torch/library.h>

#include "common/stream.h"
#include "cpu/level.h"
#include "zfcuda_build_facts.h"

// Every op's schema, and nothing else but the module itself. The second library holds the same ops
// run through the CUDA path on the host: same glue, same kernel bodies, a loop in place of the
// launch. The tests use it.

namespace {

void define_ops(torch::Library& m) {
#define WINDOW "SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation"
  m.def("max_pool2d(Tensor x, " WINDOW
        ", bool ceil_mode, bool relu) -> (Tensor y, Tensor switches)");
  m.def("max_pool2d_backward(Tensor grad, Tensor switches, Tensor? y, " WINDOW
        ", SymInt[2] input_size) -> Tensor");
  m.def("max_unpool2d(Tensor y, Tensor switches, " WINDOW
        ", SymInt[2] output_size, bool relu, bool overwrite, bool check) -> Tensor");
  m.def("max_unpool2d_backward(Tensor grad, Tensor switches, Tensor? out, " WINDOW
        ", bool overwrite) -> Tensor");
#define LAID "Tensor[] patches, Tensor windows, Tensor(a!) out, SymInt largest"
  m.def("gather_windows(Tensor? base, " LAID ", SymInt channel, float outside, bool add) -> ()");
  m.def("pool_windows(Tensor base, " LAID ", " WINDOW ", bool relu) -> ()");
  m.def("unpool_windows(Tensor switches, " LAID ", " WINDOW ", bool relu, bool overwrite) -> ()");
#undef LAID
#undef WINDOW
  m.def("local_response_norm(Tensor x, int size, float alpha, float beta, float k) -> Tensor");
  m.def(
      "local_response_norm_backward(Tensor grad, Tensor x, int size, float alpha, float beta, "
      "float k) "
      "-> Tensor");
  m.def("occlude(Tensor x, Tensor boxes, Tensor fill) -> Tensor");
  m.def("spatial_max(Tensor x) -> (Tensor values, Tensor places)");
  m.def("warp_affine(Tensor x, Tensor matrices, Tensor fill) -> Tensor");
  m.def("warp_affine_backward(Tensor grad, Tensor matrices, bool channels_last) -> Tensor");
}

}  // namespace

TORCH_LIBRARY(zfcuda, m) {
  define_ops(m);
}
TORCH_LIBRARY(zfcuda_host, m) {
  define_ops(m);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "zfcuda's compiled ops; importing it registers torch.ops.zfcuda.";
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
      [](int index) {
        const c10::Device device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
        return reinterpret_cast<uintptr_t>(zfcuda::current_stream(device));
      },
      "The cudaStream_t that an op on this GPU would be launched on now, as a number.");
}
