#pragma once
#include <ATen/ATen.h>

namespace rust_host {

// The steps of one layer of an LSTM on the processor, in float32, without gradients: what is left of it when the input's share of
// the gates has been computed for all steps at once. libtorch does four calls a step, and each takes longer than the sums of a
// small state.
class LstmLayer {
public:
  // With more rows than this, libtorch's call for a whole layer is quicker on this processor; 0 without AVX2, where there are no
  // steps of ours.
  static int64_t most_rows();

  // `weight` is torch's weight_hh, [4 * hidden, hidden].
  explicit LstmLayer(const at::Tensor &weight);

  // What belongs to gates in torch's order, [4 * hidden, ...], in the kernel's (lstm_work.h), [4 * padded, ...]: weight_ih, biases.
  static at::Tensor in_groups(const at::Tensor &gates);

  // gates: [batch, time, 4 * padded], contiguous, with all biases, in the kernel's order.
  // h, c: [batch, hidden], contiguous, changed to the last state.  Returns every h: [batch, time, hidden].
  at::Tensor operator()(const at::Tensor &gates, at::Tensor &h, at::Tensor &c) const;

private:
  int64_t hidden, padded;
  at::Tensor packed; // as lstm_work.h has the weights
};

} // namespace rust_host
