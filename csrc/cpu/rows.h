#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/scalar.h"

// 16-bit tensors are computed in float a row at a time: the hot loops only ever see float and
// double.

namespace zfcuda::cpu {

void widen_row(const c10::Half* source, float* row, int64_t count);
void widen_row(const c10::BFloat16* source, float* row, int64_t count);
void narrow_row(const float* row, c10::Half* target, int64_t count);
void narrow_row(const float* row, c10::BFloat16* target, int64_t count);

template <class T>
inline constexpr bool computes_in_place = std::is_same_v<T, Compute<T>>;

// `count` values copied into the compute type.
template <class T>
void copy_row(const T* from, Compute<T>* to, int64_t count) {
  if constexpr (computes_in_place<T>) {
    std::copy_n(from, count, to);
  } else {
    widen_row(from, to, count);
  }
}

// Rows read in the compute type: the tensor's own memory, or a widened copy of it.
template <class T>
class RowReader {
 public:
  // `most` values are read before the first of them is no longer needed.
  explicit RowReader(int64_t most = 0) { hold(most); }

  void hold(int64_t most) {
    if constexpr (!computes_in_place<T>) scratch_.resize(most);
  }

  // Of `count` values the copy goes to `at`.
  const Compute<T>* read(const T* source, int64_t at, int64_t count) {
    if constexpr (computes_in_place<T>) {
      return source;
    } else {
      widen_row(source, scratch_.data() + at, count);
      return scratch_.data() + at;
    }
  }

 private:
  std::vector<Compute<T>> scratch_;
};

// One row written in the compute type: straight into the tensor, or narrowed into it by `finish`.
template <class T>
class RowWriter {
 public:
  Compute<T>* begin(T* target, int64_t count) {
    if constexpr (computes_in_place<T>) {
      return target;
    } else {
      target_ = target;
      scratch_.resize(count);
      return scratch_.data();
    }
  }

  void finish() {
    if constexpr (!computes_in_place<T>) {
      narrow_row(scratch_.data(), target_, static_cast<int64_t>(scratch_.size()));
    }
  }

 private:
  T* target_ = nullptr;
  std::vector<Compute<T>> scratch_;
};

// Calls f(plane, row) for the rows begin ... end - 1 of planes of `height` rows, counted through.
template <class F>
void for_each_row(int64_t begin, int64_t end, int64_t height, const F& f) {
  int64_t plane = begin / height, row = begin % height;
  for (int64_t i = begin; i < end; ++i) {
    f(plane, row);
    if (++row == height) {
      row = 0;
      ++plane;
    }
  }
}

// How many rows of `row_work` elements make a task worth handing to another thread.
inline int64_t grain_of(int64_t row_work) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, row_work));
}

}  // namespace zfcuda::cpu
