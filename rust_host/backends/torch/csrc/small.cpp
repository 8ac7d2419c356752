#include "small.h"

namespace rust_host {
namespace {

struct Sizes {
  int64_t rows, inputs, outputs;
};

// The compiler makes vectors of the inner loops, of the width that the processor of the function around it has.
inline __attribute__((always_inline)) void multiply_rows(const float *__restrict x, const float *__restrict weight, const float *__restrict start, float *__restrict out, const Sizes &sizes, bool relu) {
  const auto [rows, inputs, outputs] = sizes;
  for (int64_t row = 0; row < rows; ++row, x += inputs, out += outputs) {
    for (int64_t o = 0; o < outputs; ++o)
      out[o] = start[o];
    for (int64_t i = 0; i < inputs; ++i)
      for (int64_t o = 0; o < outputs; ++o)
        out[o] += x[i] * weight[i * outputs + o];
    if (relu)
      for (int64_t o = 0; o < outputs; ++o)
        out[o] = out[o] < 0 ? 0 : out[o]; // NaN stays
  }
}

using Multiply = void (*)(const float *, const float *, const float *, float *, const Sizes &, bool);

#define RUST_HOST_MULTIPLY(name, ...)                                                                                          \
  __VA_ARGS__ void name(const float *x, const float *weight, const float *start, float *out, const Sizes &sizes, bool relu) {  \
    multiply_rows(x, weight, start, out, sizes, relu);                                                                         \
  }
RUST_HOST_MULTIPLY(multiply_plain)
#if defined(__x86_64__)
RUST_HOST_MULTIPLY(multiply_avx2, __attribute__((target("avx2,fma"))))
RUST_HOST_MULTIPLY(multiply_avx512, __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma,prefer-vector-width=512"))))
#endif

Multiply fastest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return multiply_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return multiply_avx2;
#endif
  return multiply_plain;
}

} // namespace

SmallLinear::SmallLinear(const at::Tensor &weight, const std::optional<at::Tensor> &bias) : inputs(weight.size(1)), outputs(weight.size(0)) {
  if (weight.numel() > MOST)
    return;
  by_input = weight.t().contiguous();
  start = bias && bias->defined() ? bias->contiguous() : at::zeros({outputs}, weight.options());
}

at::Tensor SmallLinear::operator()(const at::Tensor &x, bool relu) const {
  auto sizes = x.sizes().vec();
  sizes.back() = outputs;
  at::Tensor out = at::empty(sizes, x.options());
  static const Multiply multiply = fastest();
  multiply(x.const_data_ptr<float>(), by_input.const_data_ptr<float>(), start.const_data_ptr<float>(), out.mutable_data_ptr<float>(), {x.numel() / inputs, inputs, outputs}, relu);
  return out;
}

} // namespace rust_host
