#include "cpu/rows.h"

#include <utility>

#include "cpu/level.h"

#define ZF_LOOPS "cpu/rows_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {

void widen_row(const c10::Half* source, float* row, int64_t count) {
  ZF_PICK(widen_row<c10::Half>)(source, row, count);
}

void widen_row(const c10::BFloat16* source, float* row, int64_t count) {
  ZF_PICK(widen_row<c10::BFloat16>)(source, row, count);
}

void narrow_row(const float* row, c10::Half* target, int64_t count) {
  ZF_PICK(narrow_row<c10::Half>)(row, target, count);
}

void narrow_row(const float* row, c10::BFloat16* target, int64_t count) {
  ZF_PICK(narrow_row<c10::BFloat16>)(row, target, count);
}

}  // namespace zfcuda::cpu
