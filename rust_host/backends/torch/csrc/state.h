// Whether a module keeps state between calls.
#pragma once
#include <torch/csrc/jit/api/module.h>

namespace rust_host {

// What the methods of a module write to that outlives a call.
struct State {
  bool kept = false;      // an attribute, or something that an attribute holds
  bool in_memory = false; // … a tensor in place, or a constant of the code: copies of the module would share that
};

State find_state(const torch::jit::Module &module);

// The module with attributes of its own, and the same tensors: for one whose methods write into none of them.
torch::jit::Module copy_of(const torch::jit::Module &module);

} // namespace rust_host
