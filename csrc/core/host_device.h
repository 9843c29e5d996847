#pragma once

// Marks a function that must compile for the host and, under nvcc, for the device as well; and a
// loop that the device must unroll, so that the arrays it indexes stay in registers.
#if defined(__CUDACC__)
#define ZF_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ZF_HOST_DEVICE inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)  // not in nvcc's pass for the host, whose compiler does not know the
                            // pragma
#define ZF_UNROLL _Pragma("unroll")
#else
#define ZF_UNROLL
#endif
