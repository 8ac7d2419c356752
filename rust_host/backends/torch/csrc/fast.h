// A second form of a module's forward graph that computes the same, faster: weights are constants in the layout that oneDNN
// computes with, and activations are part of the layer in front of them.
#pragma once
#include <memory>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

namespace rust_host {

class Fast {
public:
  // Nothing where the graph has no layer that would gain, or cannot be run twice unnoticed (random numbers, printing,
  // writing into its inputs). Throws where a pass of libtorch fails; the module itself is never changed.
  static std::unique_ptr<Fast> of(const torch::jit::Module &module);

  // Takes what the module's forward takes, self first, and leaves its result.
  void run(torch::jit::Stack &stack) { executor.run(stack); }

private:
  explicit Fast(torch::jit::Module module);
  torch::jit::Module module; // owns what the graph needs besides its constants
  torch::jit::GraphExecutor executor;
};

// |a - b| <= atol + atol_of_largest * max|a| + rtol * |a|
struct Tolerance {
  double rtol = 0, atol = 0, atol_of_largest = 0;
};

// Whether two results are the same but for rounding: equal types and shapes, and numbers within the tolerance.
bool agrees(const c10::IValue &a, const c10::IValue &b, const Tolerance &tolerance, int depth = 0);

} // namespace rust_host
