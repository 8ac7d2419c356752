// A second form of a module's forward graph that computes the same, faster: weights are constants in the layout that oneDNN
// computes with, and activations are part of the layer in front of them.
#pragma once
#include <functional>
#include <memory>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

namespace rust_host {

class Fast {
public:
  // Nothing where the graph has no layer that would gain, or cannot be run twice unnoticed (random numbers, printing,
  // writing into its inputs). Throws where a pass of libtorch fails; the module itself is never changed.
  static std::unique_ptr<Fast> of(const torch::jit::Module &module);

  // What the module's forward gives for these; self is not among them.
  c10::IValue run(const torch::jit::Stack &arguments);

private:
  explicit Fast(torch::jit::Module module);
  torch::jit::Module module; // owns what the graph needs besides its constants
  torch::jit::GraphExecutor executor;
  std::function<at::Tensor(const at::Tensor &)> whole; // where the graph is one layer of ours: without the interpreter
};

// |a - b| <= atol + atol_of_largest * max|a| + rtol * |a|
struct Tolerance {
  double rtol = 0, atol = 0, atol_of_largest = 0;
};

// Whether two results are the same but for rounding: equal types and shapes, and numbers within the tolerance.
bool agrees(const c10::IValue &a, const c10::IValue &b, const Tolerance &tolerance, int depth = 0);

} // namespace rust_host
