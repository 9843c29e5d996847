# The kernels, torch-free and so compiled the same under a CPU-only torch (where they load but cannot run).
set(CMAKE_CUDA_COMPILER ${ZFCUDA_NVCC})
set(CMAKE_CUDA_ARCHITECTURES ${ZFCUDA_ARCHITECTURES})
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_RUNTIME_LIBRARY None) # ZFCUDA_CUDART, below
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

add_library(zfcuda_kernels OBJECT ${kernels})
target_include_directories(zfcuda_kernels PRIVATE csrc ${CMAKE_BINARY_DIR})
target_include_directories(zfcuda_kernels SYSTEM PRIVATE ${TORCH_INCLUDE_DIRS})
target_compile_options(
  zfcuda_kernels
  PRIVATE --expt-relaxed-constexpr
          -D__CUDA_NO_HALF_OPERATORS__
          -D__CUDA_NO_HALF_CONVERSIONS__
          -D__CUDA_NO_HALF2_OPERATORS__
          -D__CUDA_NO_BFLOAT16_CONVERSIONS__)
