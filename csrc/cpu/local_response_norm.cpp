#include <algorithm>
#include <utility>
#include <vector>

#include "core/dispatch.h"
#include "core/normalising.h"
#include "cpu/level.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"

namespace zfcuda::cpu {
namespace {

enum class Power { three_quarters, half, one, any };

}  // namespace
}  // namespace zfcuda::cpu

#define ZF_LOOPS "cpu/local_response_norm_loops.h"
#include "cpu/for_each_level.h"

namespace zfcuda::cpu {
namespace {

// Positions of a plane worked on together: five rows of them stay in the first-level cache.
constexpr int64_t chunk = 512;

template <class F>
void with_power(const LrnParams& p, F&& f) {
  const double beta = p.beta;
  if (beta == 0.75 && !may_be_negative(p.alpha, p.k))
    return f.template operator()<Power::three_quarters>();
  if (beta == 0.5) return f.template operator()<Power::half>();
  if (beta == 1.0) return f.template operator()<Power::one>();
  f.template operator()<Power::any>();
}

// The rows around a row. Contiguous: the planes around a channel, a row of zeros beyond the ends.
// channels_last: shifts of one padded row.
template <class C>
class Window {
 public:
  explicit Window(int64_t size) : rows_(size) {}

  // Rows first ... first + size - 1 of `planes` rows of stride `stride`.
  const C* const* around(const C* planes, int64_t stride, int64_t count, int64_t first,
                         const C* zeros) {
    for (int64_t j = 0; j < static_cast<int64_t>(rows_.size()); ++j) {
      const int64_t row = first + j;
      rows_[j] = row < 0 || row >= count ? zeros : planes + row * stride;
    }
    return rows_.data();
  }

  const C* const* shifts_of(const C* padded) {
    for (size_t j = 0; j < rows_.size(); ++j) rows_[j] = padded + j;
    return rows_.data();
  }

 private:
  std::vector<const C*> rows_;
};

template <class T, Power P>
class Normaliser {
  using C = Compute<T>;

 public:
  // `length` is the longest row: a chunk of positions, or all channels.
  explicit Normaliser(const LrnParams& p)
      : p_(p),
        x_(static_cast<const T*>(p.x)),
        grad_(static_cast<const T*>(p.grad)),
        out_(static_cast<T*>(p.out)),
        length_(p.channels_last ? p.channels : std::min(chunk, p.spatial)),
        below_(p.size / 2),
        above_((p.size - 1) / 2),
        window_(p.size),
        zeros_(length_),
        sum_(length_),
        direct_(length_),
        values_(p.channels_last ? with_margins() : 0),
        grads_(p.channels_last && p.grad ? with_margins() : 0),
        shared_(p.grad ? (p.channels_last ? with_margins() : 2 * p.channels * length_) : 0),
        x_reader_(p.channels_last ? 0 : p.channels * length_),
        grad_reader_(p.channels_last || !p.grad ? 0 : p.channels * length_),
        alpha_(static_cast<C>(p.alpha)),
        beta_(static_cast<C>(p.beta)),
        k_(static_cast<C>(p.k)) {}

  // contiguous: all channels of positions [first, first + count) of one image.
  void planes(int64_t image, int64_t first, int64_t count) {
    const int64_t at = image * p_.channels * p_.spatial + first;
    const auto [x, x_stride] = read_planes(x_ + at, x_reader_, count);
    if (!p_.grad) {
      for (int64_t c = 0; c < p_.channels; ++c) {
        normalise_row(window_.around(x, x_stride, p_.channels, c - below_, zeros_.data()),
                      x + c * x_stride, out_ + at + c * p_.spatial, count);
      }
      return;
    }
    const auto [grad, grad_stride] = read_planes(grad_ + at, grad_reader_, count);
    for (int64_t c = 0; c < p_.channels; ++c) {
      squares(window_.around(x, x_stride, p_.channels, c - below_, zeros_.data()), count);
      C* direct = shared_.data() + (p_.channels + c) * count;
      terms(x + c * x_stride, grad + c * grad_stride, direct, shared_.data() + c * count, count);
    }
    for (int64_t c = 0; c < p_.channels; ++c) {
      sums(window_.around(shared_.data(), count, p_.channels, c - above_, zeros_.data()), count);
      combine(shared_.data() + (p_.channels + c) * count, x + c * x_stride,
              out_ + at + c * p_.spatial, count);
    }
  }

  // channels_last: pixel `pixel` of all pixels.
  void pixel(int64_t pixel) {
    const int64_t channels = p_.channels, at = pixel * channels;
    copy_row(x_ + at, values_.data() + below_, channels);
    const C* x = values_.data() + below_;
    if (!p_.grad) return normalise_row(window_.shifts_of(values_.data()), x, out_ + at, channels);
    squares(window_.shifts_of(values_.data()), channels);
    copy_row(grad_ + at, grads_.data(), channels);
    terms(x, grads_.data(), direct_.data(), shared_.data() + above_, channels);
    sums(window_.shifts_of(shared_.data()), channels);
    combine(direct_.data(), x, out_ + at, channels);
  }

 private:
  // A pixel's channels, and zeros on both sides.
  int64_t with_margins() const { return p_.channels + p_.size; }

  // The first plane, and how far it is to the next.
  std::pair<const C*, int64_t> read_planes(const T* from, RowReader<T>& reader, int64_t count) {
    const C* first = reader.read(from, 0, count);
    if constexpr (computes_in_place<T>) {
      return {first, p_.spatial};
    } else {
      for (int64_t c = 1; c < p_.channels; ++c) {
        reader.read(from + c * p_.spatial, c * count, count);
      }
      return {first, count};
    }
  }

  void squares(const C* const* rows, int64_t count) {
    ZF_PICK(sum_window<true, C>)(rows, p_.size, sum_.data(), count);
  }

  void sums(const C* const* rows, int64_t count) {
    ZF_PICK(sum_window<false, C>)(rows, p_.size, sum_.data(), count);
  }

  // `rows` are the channels around x.
  void normalise_row(const C* const* rows, const C* x, T* out, int64_t count) {
    C* row = writer_.begin(out, count);
    if (p_.size == 5) {
      ZF_PICK(normalise_five<P, C>)(rows, x, row, count, alpha_, beta_, k_);
    } else {
      squares(rows, count);
      ZF_PICK(normalise<P, C>)(x, sum_.data(), row, count, alpha_, beta_, k_);
    }
    writer_.finish();
  }

  void terms(const C* x, const C* grad, C* direct, C* shared, int64_t count) {
    ZF_PICK(backward_terms<P, C>)(x, grad, sum_.data(), direct, shared, count, alpha_, beta_, k_);
  }

  void combine(const C* direct, const C* x, T* out, int64_t count) {
    C* row = writer_.begin(out, count);
    ZF_PICK(subtract_scaled<C>)(direct, x, sum_.data(), 2 * alpha_ * beta_, row, count);
    writer_.finish();
  }

  const LrnParams& p_;
  const T* x_;
  const T* grad_;
  T* out_;
  int64_t length_, below_, above_;
  Window<C> window_;
  std::vector<C> zeros_, sum_, direct_, values_, grads_, shared_;
  RowReader<T> x_reader_, grad_reader_;
  RowWriter<T> writer_;
  C alpha_, beta_, k_;
};

template <class T, Power P>
void run(const LrnParams& p) {
  if (p.channels_last) {
    parallel_for(0, p.batch * p.spatial, grain_of(8 * p.channels), [&](int64_t begin, int64_t end) {
      Normaliser<T, P> normaliser(p);
      for (int64_t i = begin; i < end; ++i) normaliser.pixel(i);
    });
    return;
  }
  const int64_t chunks = (p.spatial + chunk - 1) / chunk;
  parallel_for(0, p.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    Normaliser<T, P> normaliser(p);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * chunk;
      normaliser.planes(i / chunks, first, std::min(chunk, p.spatial - first));
    }
  });
}

}  // namespace

void local_response_norm(const LrnParams& p) {
  with_dtype(p.dtype, [&]<class T>(T) { with_power(p, [&]<Power P>() { run<T, P>(p); }); });
}

}  // namespace zfcuda::cpu
