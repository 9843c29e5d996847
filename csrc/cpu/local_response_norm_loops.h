// The inner loops of contrast normalisation, compiled once per instruction set. A row is a piece of
// one channel's plane, or the channels of one pixel; its window is `size` other rows, which in the
// second case are shifts of itself.

namespace zfcuda::cpu::ZF_LEVEL {
namespace {

// x / value ** beta, as over_power in core/normalising.h. The exponents in use have a form in
// square roots, which vectorises and is exact to an ulp or two.
template <Power P, class T>
ZF_INLINE T over_power(T x, T value, T beta) {
  if constexpr (P == Power::three_quarters) {
    const T root = __builtin_sqrt(value);
    return x * (T(1) / (root * __builtin_sqrt(root)));
  } else if constexpr (P == Power::half) {
    return x * (T(1) / __builtin_sqrt(value));
  } else if constexpr (P == Power::one) {
    return x / value;
  } else {
    if (beta == -0.5) return x / (T(1) / __builtin_sqrt(value));
    return x / __builtin_pow(value, beta);
  }
}

template <Power P>
ZF_INLINE float over_power(float x, float value, float beta) {
  if constexpr (P == Power::three_quarters) {
    const float root = __builtin_sqrtf(value);
    return x * (1.0f / (root * __builtin_sqrtf(root)));
  } else if constexpr (P == Power::half) {
    return x * (1.0f / __builtin_sqrtf(value));
  } else if constexpr (P == Power::one) {
    return x / value;
  } else {
    if (beta == -0.5f) return x / (1.0f / __builtin_sqrtf(value));
    return x / __builtin_powf(value, beta);
  }
}

template <bool Square, class T>
void sum_window(const T* const* rows, int64_t size, T* __restrict sum, int64_t count) {
  if (size == 5) {
    const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3], *e = rows[4];
    for (int64_t i = 0; i < count; ++i) {
      sum[i] = Square ? a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i]
                      : a[i] + b[i] + c[i] + d[i] + e[i];
    }
    return;
  }
  for (int64_t i = 0; i < count; ++i) sum[i] = T(0);
  for (int64_t j = 0; j < size; ++j) {
    const T* row = rows[j];
    for (int64_t i = 0; i < count; ++i) sum[i] += Square ? row[i] * row[i] : row[i];
  }
}

template <Power P, class T>
void normalise(const T* __restrict x, const T* __restrict sum, T* __restrict out, int64_t count,
               T alpha, T beta, T k) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = over_power<P>(x[i], k + alpha * sum[i], beta);
  }
}

// Sum and normalisation in one pass, for the window of five that networks use.
template <Power P, class T>
void normalise_five(const T* const* rows, const T* __restrict x, T* __restrict out, int64_t count,
                    T alpha, T beta, T k) {
  const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3], *e = rows[4];
  for (int64_t i = 0; i < count; ++i) {
    const T sum = a[i] * a[i] + b[i] * b[i] + c[i] * c[i] + d[i] * d[i] + e[i] * e[i];
    out[i] = over_power<P>(x[i], k + alpha * sum, beta);
  }
}

// With d = k + alpha * sum: direct = grad * d ** -beta, shared = grad * x * d ** -(beta + 1).
template <Power P, class T>
void backward_terms(const T* __restrict x, const T* __restrict grad, const T* __restrict sum,
                    T* __restrict direct, T* __restrict shared, int64_t count, T alpha, T beta,
                    T k) {
  for (int64_t i = 0; i < count; ++i) {
    const T d = k + alpha * sum[i];
    direct[i] = over_power<P>(grad[i], d, beta);
    shared[i] = direct[i] * x[i] / d;
  }
}

template <class T>
void subtract_scaled(const T* __restrict direct, const T* __restrict x, const T* __restrict sum,
                     T factor, T* __restrict out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = direct[i] - factor * x[i] * sum[i];
}

}  // namespace
}  // namespace zfcuda::cpu::ZF_LEVEL
