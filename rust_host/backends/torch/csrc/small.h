#pragma once
#include <ATen/ATen.h>

namespace rust_host {

// A linear layer so small that a call of any library costs more than its sums: a call of at::linear takes a microsecond before
// it multiplies anything.
struct SmallLinear {
  // The most multiplications of a call: with more, libtorch's kernels make up for what their call costs.
  static constexpr int64_t MOST = 8192;

  SmallLinear(const at::Tensor &weight, const std::optional<at::Tensor> &bias);

  // Whether such an input is for this one; all else is not looked at, because `weight` has the sizes.
  bool fits(const at::Tensor &x) const { return by_input.defined() && x.is_contiguous() && x.numel() * outputs <= MOST; }

  // x * weight^T + bias, and what is below zero as zero where `relu`; in float32 with fused products where the processor has them.
  at::Tensor operator()(const at::Tensor &x, bool relu) const;

private:
  at::Tensor by_input; // [inputs, outputs]: a row is what one input adds to each output; none where the layer is too large
  at::Tensor start;    // [outputs]
  int64_t inputs, outputs;
};

} // namespace rust_host
