// rh_value ↔ c10::IValue.
#pragma once
#include "shim.h"
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <list>
#include <stdexcept>
#include <string>
#include <vector>

namespace rust_host {

// A value that does not fit its argument's type: the caller's mistake, not the model's.
struct InvalidInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Takes over `value.tensor->owner` of every tensor in it, also when it throws.
c10::IValue to_ivalue(const rh_value &value, const c10::TypePtr &type, const std::string &argument, at::Device device, bool copy);

// Releases what to_ivalue would have taken over, for arguments that it was never called for.
void release(const rh_value &value);

// A result in C form. Nodes, items and texts live as long as this object.
struct Result {
  rh_value root{};
  // Where the model runs. Of a GPU's result nothing is there before the stream was waited for and `finish` called.
  at::Device device = at::kCPU;
  void fill(rh_value &target, c10::IValue &&value, int depth = 0);
  void finish();

private:
  struct Pending {
    rh_tensor *target;
    at::Tensor tensor;
    bool is_copied; // into page-locked memory
  };
  std::vector<Pending> pending;
  // Lists, because nodes point into them; and they take no memory where they are empty, as two of them are in most results.
  std::list<std::vector<rh_value>> items;
  std::list<std::string> texts;
  std::list<rh_tensor> tensors;
  void fill_tensor(rh_value &target, at::Tensor &&tensor);
  void hand_over(rh_tensor &target, at::Tensor &&tensor);
  void fill_items(rh_value &target, int32_t tag, std::vector<c10::IValue> &&values, int depth);
  void fill_text(rh_value &target, std::string text);
};

} // namespace rust_host
