// Checks that are woven into a module's graphs before it runs.
#pragma once
#include <exception>
#include <torch/csrc/jit/ir/ir.h>

namespace rust_host {

// The caller asked to stop.
struct Interrupted : std::exception {
  const char *what() const noexcept override { return "rust_host: interrupted"; }
};

void guard(torch::jit::Graph &graph);

} // namespace rust_host
