#pragma once
#include <ATen/ATen.h>

namespace rust_host {

// Linear layers behind one another, so small that a call of any library costs more than their sums: a call of at::linear takes a
// microsecond before it multiplies anything. Some rows at a time go through all of them, and what is between stays in the first
// cache.
class SmallLayers {
public:
  // Puts x * weight^T + bias behind what is there, and zero for what is below zero where `relu`; in float32, with fused products
  // where the processor has them. False, and from then on no input fits, where it is too large.
  bool add(const at::Tensor &weight, const std::optional<at::Tensor> &bias, bool relu);

  // Whether a layer with these weights can be one of them.
  static bool takes(const at::Tensor &weight);

  // Whether such an input is for these; its last dimension is not looked at: it must be what the first layer takes.
  bool fits(const at::Tensor &x) const { return !layers.empty() && x.is_contiguous(); }

  at::Tensor operator()(const at::Tensor &x) const;

  struct Layer {
    int64_t inputs, outputs;
    at::Tensor columns; // [blocks, inputs, BLOCK]: what each input adds to the outputs of a block, zeros where there is none
    at::Tensor start;   // [blocks, BLOCK]
    bool relu;
  };

private:
  std::vector<Layer> layers;
  int64_t of_a_row = 0; // multiplications
};

} // namespace rust_host
