// Checks against what would end the process.
#pragma once
#include <exception>
#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/ir/ir.h>

namespace rust_host {

// The caller asked to stop.
struct Interrupted : std::exception {
  const char *what() const noexcept override { return "rust_host: interrupted"; }
};

// Asks whether the caller still wants the result, and throws Interrupted if not.
void ask_interrupt();

// Throws for code that only a hostile file has: objects read as another class, calls that double and double again.
void refuse_hostile(torch::jit::CompilationUnit &unit);

// Checks of this module: before it runs the first time.
void guard(torch::jit::Graph &graph);

// Checks of the whole process: once, before the first file is loaded.
void replace_operators();

} // namespace rust_host
