// Compiles the file named by ZF_LOOPS once per instruction set (see cpu/level.h). No include guard:
// each .cpp includes it once for its own loops.

#if defined(ZF_LEVELS)
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define ZF_LEVEL avx512
#define ZF_VECTOR_BYTES 64
#include "cpu/vector.h"
#include ZF_LOOPS
#undef ZF_LEVEL
#undef ZF_VECTOR_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define ZF_LEVEL avx2
#define ZF_VECTOR_BYTES 32
#include "cpu/vector.h"
#include ZF_LOOPS
#undef ZF_LEVEL
#undef ZF_VECTOR_BYTES
#pragma GCC pop_options
#endif

#define ZF_LEVEL baseline
#define ZF_VECTOR_BYTES 16
#include "cpu/vector.h"
#include ZF_LOOPS
#undef ZF_LEVEL
#undef ZF_VECTOR_BYTES
#undef ZF_LOOPS
