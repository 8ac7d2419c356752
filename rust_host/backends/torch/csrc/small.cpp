#include "small.h"

namespace rust_host {
namespace {

// The compiler makes vectors of the inner loops, of the width that the processor has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512"), optimize("O3")))
#endif
void multiply(const float *__restrict x, const float *__restrict weight, const float *__restrict start, float *__restrict out, int64_t rows, int64_t inputs, int64_t outputs, bool relu) {
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
  multiply(x.const_data_ptr<float>(), by_input.const_data_ptr<float>(), start.const_data_ptr<float>(), out.mutable_data_ptr<float>(), x.numel() / inputs, inputs, outputs, relu);
  return out;
}

} // namespace rust_host
