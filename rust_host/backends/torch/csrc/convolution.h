// Convolutions computed by the kernel that compiled packages carry (py_authoring/export/native/convolution.inc). It prepares
// nothing for a call, where oneDNN takes 25 µs, and is as fast as oneDNN's behind that.
#pragma once
#include <ATen/ATen.h>

namespace rust_host {

class DirectConvolution {
public:
  // Whether this processor has vectors for it, and a layer with so many inputs is no faster with oneDNN.
  static bool is_for(const at::Tensor &weight);

  // Weights [outputs, inputs, h, w] and bias [outputs] of float32; one group, no dilation.
  DirectConvolution(const at::Tensor &weight, const std::optional<at::Tensor> &bias, std::vector<int64_t> stride, std::vector<int64_t> padding);

  // x [n, inputs, h, w] of float32, channels last, at least as large as the kernel with its padding; the result lies like it.
  at::Tensor operator()(const at::Tensor &x, bool relu) const;

  // The same for weights of one tap, as of a linear layer: x [..., inputs], contiguous and not empty.
  at::Tensor of_rows(const at::Tensor &x, bool relu) const;

private:
  int64_t outputs, inputs, height, width;
  std::vector<int64_t> stride, padding;
  at::Tensor packed, start;
};

} // namespace rust_host
