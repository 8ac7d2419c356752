// Sums along an axis and orders of numbers of compiled packages, under the names by which generated code asks its host for them:
// linked into the library, these answer before any host does.
#include "kernel.h"
#include <algorithm>
#include <cmath>
#include <new>
#include <vector>

namespace {

// One axis of a tensor, line by line.
struct Lines {
  void *data = nullptr;
  int32_t dtype = 0;
  int64_t dims = 0, axis = 0, *sizes = nullptr, *strides = nullptr;

  AOTITorchError read(AtenTensorHandle tensor, int64_t along) {
    TRY(aoti_torch_get_dtype(tensor, &dtype));
    TRY(aoti_torch_get_dim(tensor, &dims));
    TRY(aoti_torch_get_sizes(tensor, &sizes));
    TRY(aoti_torch_get_strides(tensor, &strides));
    TRY(aoti_torch_get_data_ptr(tensor, &data));
    axis = along < 0 ? along + dims : along;
    return AOTI_TORCH_SUCCESS;
  }

  int64_t length() const { return dims ? sizes[axis] : 1; }
  int64_t step() const { return dims ? strides[axis] : 1; }
  int64_t count() const {
    int64_t lines = 1;
    for (int64_t d = 0; d < dims; ++d)
      lines *= d == axis ? 1 : sizes[d];
    return lines;
  }
  // Where line `number` begins, in numbers; lines of two tensors with the same other axes belong together.
  int64_t begin(int64_t number) const {
    int64_t at = 0;
    for (int64_t d = dims - 1; d >= 0; --d)
      if (d != axis) {
        at += number % sizes[d] * strides[d];
        number /= sizes[d];
      }
    return at;
  }

  // The sizes with another length of the axis.
  std::vector<int64_t> sizes_with(int64_t length) const {
    std::vector<int64_t> other(sizes, sizes + dims);
    if (dims)
      other[axis] = length;
    return other;
  }
};

std::vector<int64_t> in_one_piece(const std::vector<int64_t> &sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t next = 1;
  for (size_t d = sizes.size(); d-- > 0; next *= std::max<int64_t>(sizes[d], 1))
    strides[d] = next;
  return strides;
}

AOTITorchError make(const std::vector<int64_t> &sizes, const std::vector<int64_t> &strides, int32_t dtype, Owned &tensor) {
  return aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0, &tensor.handle);
}

// Calls `work` with a number of the type. The types are those of export/kernels/order.py.
template <class Work> AOTITorchError with_type(int32_t dtype, Work &&work) {
  if (dtype == aoti_torch_dtype_float32())
    return work(float{});
  if (dtype == aoti_torch_dtype_float64())
    return work(double{});
  if (dtype == aoti_torch_dtype_int64())
    return work(int64_t{});
  if (dtype == aoti_torch_dtype_int32())
    return work(int32_t{});
  if (dtype == aoti_torch_dtype_uint8() || dtype == aoti_torch_dtype_bool())
    return work(uint8_t{});
  return AOTI_TORCH_FAILURE;
}

template <class Number> bool is_nan(Number value) {
  if constexpr (std::is_floating_point_v<Number>)
    return std::isnan(value);
  return false;
}

// NaN is the largest number.
template <class Number> bool less(Number a, Number b) { return (is_nan(b) && !is_nan(a)) || a < b; }
template <class Number> bool greater(Number a, Number b) { return (is_nan(a) && !is_nan(b)) || a > b; }

template <class Number> struct Placed {
  Number value;
  int64_t place;
};

// Puts the first `kept` of each line, in the order that `arrange` gives it, into two tensors.
template <class Arrange> AOTITorchError ordered(const Lines &from, int64_t kept, AtenTensorHandle values, AtenTensorHandle places, const Arrange &arrange) {
  Lines to, at;
  TRY(to.read(values, from.axis));
  TRY(at.read(places, from.axis));
  return with_type(from.dtype, [&](auto example) {
    using Number = decltype(example);
    std::vector<Placed<Number>> line(from.length());
    for (int64_t number = 0; number < from.count(); ++number) {
      const Number *read = static_cast<const Number *>(from.data) + from.begin(number);
      for (int64_t i = 0; i < from.length(); ++i)
        line[i] = {read[i * from.step()], i};
      arrange(line);
      Number *value = static_cast<Number *>(to.data) + to.begin(number);
      int64_t *place = static_cast<int64_t *>(at.data) + at.begin(number);
      for (int64_t i = 0; i < kept; ++i)
        value[i * to.step()] = line[i].value, place[i * at.step()] = line[i].place;
    }
    return static_cast<AOTITorchError>(AOTI_TORCH_SUCCESS);
  });
}

template <class Line, class Compare> void sort(Line &line, Compare compare) {
  std::stable_sort(line.begin(), line.end(), [&](const auto &a, const auto &b) { return compare(a.value, b.value); });
}

// Which of equal numbers are taken, and in what order, is a matter of the algorithm: these are torch's.
template <class Line, class Compare> void take(Line &line, int64_t kept, bool is_sorted, Compare compare) {
  const auto before = [&](const auto &a, const auto &b) { return compare(a.value, b.value); };
  const auto begin = line.begin(), end = line.end();
  if (kept * 64 <= static_cast<int64_t>(line.size())) {
    std::partial_sort(begin, begin + kept, end, before);
  } else if (kept > 0) {
    std::nth_element(begin, begin + kept - 1, end, before);
    if (is_sorted)
      std::sort(begin, begin + kept - 1, before);
  }
}

// Sums, or products, of each line up to each place. torch adds what is float32 in float64, too.
template <bool PRODUCTS> AOTITorchError accumulate(AtenTensorHandle self, int64_t dim, const int32_t *dtype, AtenTensorHandle *made) {
  Lines from, to;
  Owned out;
  TRY(from.read(self, dim));
  const bool is_float = from.dtype == aoti_torch_dtype_float32() || from.dtype == aoti_torch_dtype_float64();
  const int32_t wanted = dtype ? *dtype : is_float ? from.dtype : aoti_torch_dtype_int64();
  const auto sizes = from.sizes_with(from.length());
  TRY(make(sizes, in_one_piece(sizes), wanted, out));
  TRY(to.read(out.handle, dim));
  TRY(with_type(from.dtype, [&](auto given) {
    return with_type(wanted, [&](auto example) {
      using Given = decltype(given);
      using Number = decltype(example);
      using Sum = std::conditional_t<std::is_floating_point_v<Number>, double, uint64_t>; // unsigned: it may overflow
      for (int64_t number = 0; number < from.count(); ++number) {
        const Given *read = static_cast<const Given *>(from.data) + from.begin(number);
        Number *write = static_cast<Number *>(to.data) + to.begin(number);
        Sum sum = PRODUCTS ? 1 : 0;
        for (int64_t i = 0; i < from.length(); ++i) {
          const auto next = static_cast<Sum>(static_cast<Number>(read[i * from.step()]));
          sum = PRODUCTS ? sum * next : sum + next;
          write[i * to.step()] = static_cast<Number>(sum);
        }
      }
      return static_cast<AOTITorchError>(AOTI_TORCH_SUCCESS);
    });
  }));
  *made = out.handle;
  out.handle = nullptr;
  return AOTI_TORCH_SUCCESS;
}

template <class Work> AOTITorchError guarded(const Work &work) {
  try {
    return work();
  } catch (const std::bad_alloc &) {
    return AOTI_TORCH_FAILURE;
  }
}

AOTITorchError sorted(AtenTensorHandle self, int64_t dim, bool descending, AtenTensorHandle *made, AtenTensorHandle *made_places) {
  return guarded([&]() -> AOTITorchError {
    Lines from, to;
    Owned values, places;
    TRY(from.read(self, dim));
    TRY(aoti_torch_clone(self, &values.handle)); // lies as torch's result does: like its input, without gaps
    TRY(to.read(values.handle, dim));
    TRY(make(to.sizes_with(to.length()), {to.strides, to.strides + to.dims}, aoti_torch_dtype_int64(), places));
    TRY(ordered(from, from.length(), values.handle, places.handle, [&](auto &line) {
      using Number = decltype(line[0].value);
      descending ? sort(line, greater<Number>) : sort(line, less<Number>);
    }));
    *made = values.handle, *made_places = places.handle;
    values.handle = places.handle = nullptr;
    return AOTI_TORCH_SUCCESS;
  });
}

} // namespace

#define OURS extern "C" __attribute__((visibility("hidden"))) AOTITorchError

OURS aoti_torch_cpu_sort(AtenTensorHandle self, int64_t dim, int32_t descending, AtenTensorHandle *ret0, AtenTensorHandle *ret1) {
  return sorted(self, dim, descending != 0, ret0, ret1);
}

OURS aoti_torch_cpu_sort_stable(AtenTensorHandle self, int32_t *, int64_t dim, int32_t descending, AtenTensorHandle *ret0, AtenTensorHandle *ret1) {
  return sorted(self, dim, descending != 0, ret0, ret1);
}

OURS aoti_torch_cpu_topk(AtenTensorHandle self, int64_t k, int64_t dim, int32_t largest, int32_t is_sorted, AtenTensorHandle *ret0, AtenTensorHandle *ret1) {
  return guarded([&]() -> AOTITorchError {
    Lines from;
    Owned values, places;
    TRY(from.read(self, dim));
    if (k < 0 || k > from.length())
      return AOTI_TORCH_FAILURE; // which eager refuses too
    const auto sizes = from.sizes_with(k), strides = in_one_piece(sizes);
    TRY(make(sizes, strides, from.dtype, values));
    TRY(make(sizes, strides, aoti_torch_dtype_int64(), places));
    TRY(ordered(from, k, values.handle, places.handle, [&](auto &line) {
      using Number = decltype(line[0].value);
      largest ? take(line, k, is_sorted != 0, greater<Number>) : take(line, k, is_sorted != 0, less<Number>);
    }));
    *ret0 = values.handle, *ret1 = places.handle;
    values.handle = places.handle = nullptr;
    return AOTI_TORCH_SUCCESS;
  });
}

OURS aoti_torch_cpu_cumsum(AtenTensorHandle self, int64_t dim, int32_t *dtype, AtenTensorHandle *ret0) {
  return guarded([&] { return accumulate<false>(self, dim, dtype, ret0); });
}

OURS aoti_torch_cpu_cumprod(AtenTensorHandle self, int64_t dim, int32_t *dtype, AtenTensorHandle *ret0) {
  return guarded([&] { return accumulate<true>(self, dim, dtype, ret0); });
}
