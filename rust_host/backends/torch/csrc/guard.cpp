// What honest models do that would end or hang the process: integer division by zero and MIN / -1 (SIGFPE), eigenvalues of
// NaN (SIGSEGV), loops without an end. Before a module runs, small checks are woven into its graphs; each passes a value
// through or throws, so no pass of libtorch can remove or reorder it.
#include "guard.h"
#include "shim.h"
#include <ATen/ATen.h>
#include <atomic>
#include <chrono>
#include <limits>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

namespace rust_host {
namespace {

using c10::AliasAnalysisKind;
using torch::jit::pop;
using torch::jit::push;
using torch::jit::Stack;

void check_division(int64_t a, int64_t b) {
  if (b == 0)
    throw std::runtime_error("integer division by zero");
  if (b == -1 && a == std::numeric_limits<int64_t>::min())
    throw std::runtime_error("integer overflow: " + std::to_string(a) + " divided by -1");
}

template <class T> bool overflows(const at::Tensor &a, const at::Scalar &b) {
  return b.to<int64_t>() == -1 && a.eq(std::numeric_limits<T>::min()).any().template item<bool>();
}

template <class T> bool overflows(const at::Tensor &a, const at::Tensor &b) {
  const auto divisor = b.eq(-1);
  return divisor.any().template item<bool>() && a.eq(std::numeric_limits<T>::min()).logical_and(divisor).any().template item<bool>();
}

// Only the truncating quotient of 32 and 64 bits uses the processor's instruction unchecked.
template <class Divisor> void check_tensor_division(const at::Tensor &a, const Divisor &b, const c10::IValue &mode) {
  if (mode.isNone() || mode.toStringRef() != "trunc" || !a.device().is_cpu())
    return;
  const bool bad = (a.scalar_type() == at::kInt && overflows<int32_t>(a, b)) || (a.scalar_type() == at::kLong && overflows<int64_t>(a, b));
  if (bad)
    throw std::runtime_error("integer overflow: the smallest integer divided by -1");
}

std::atomic<int32_t (*)()> poll{nullptr};

// Asks every so often whether the caller still wants the result; a clock is cheaper than the question.
void check_interrupt() {
  using Clock = std::chrono::steady_clock;
  thread_local Clock::time_point next{};
  thread_local uint32_t count = 0;
  if (++count % 64 != 0)
    return;
  const auto now = Clock::now();
  if (now < next)
    return;
  next = now + std::chrono::milliseconds(20);
  if (auto *ask = poll.load())
    if (ask())
      throw Interrupted();
}

const torch::jit::RegisterOperators operators({
    torch::jit::Operator(
        "rust_host::divisor.int(int a, int b) -> int",
        [](Stack &stack) {
          const int64_t b = pop(stack).toInt(), a = pop(stack).toInt();
          check_division(a, b);
          push(stack, b);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::divisor.number(Scalar a, Scalar b) -> Scalar",
        [](Stack &stack) {
          const c10::IValue b = pop(stack), a = pop(stack);
          if (a.isInt() && b.isInt())
            check_division(a.toInt(), b.toInt());
          push(stack, b);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::divisor.Tensor(Tensor a, Tensor(x) b, str? mode) -> Tensor(x)",
        [](Stack &stack) {
          const c10::IValue mode = pop(stack), b = pop(stack), a = pop(stack);
          check_tensor_division(a.toTensor(), b.toTensor(), mode);
          push(stack, b);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::divisor.Scalar(Tensor a, Scalar b, str? mode) -> Scalar",
        [](Stack &stack) {
          const c10::IValue mode = pop(stack), b = pop(stack), a = pop(stack);
          check_tensor_division(a.toTensor(), b.toScalar(), mode);
          push(stack, b);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::finite(Tensor(x) a) -> Tensor(x)",
        [](Stack &stack) {
          const at::Tensor a = pop(stack).toTensor();
          if (!a.isfinite().all().item<bool>())
            throw std::runtime_error("eigenvalues of a matrix with NaN or infinity");
          push(stack, a);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::go_on(bool condition) -> bool",
        [](Stack &) { check_interrupt(); },
        // Not to be moved out of the loop that it watches.
        AliasAnalysisKind::CONSERVATIVE),
});

void guard_node(torch::jit::Node *node) {
  static const auto divisor = c10::Symbol::fromQualString("rust_host::divisor");
  const auto kind = node->kind();
  const std::string name = kind.toQualString();
  auto *graph = node->owningGraph();
  const auto is_int = [&](size_t i) { return node->input(i)->type()->kind() == c10::TypeKind::IntType; };
  const auto is_float = [&](size_t i) { return node->input(i)->type()->kind() == c10::TypeKind::FloatType; };
  if (name == "prim::Loop") {
    auto *body = node->blocks()[0];
    torch::jit::WithInsertPoint at(body->return_node());
    auto *watched = graph->insert(c10::Symbol::fromQualString("rust_host::go_on"), {body->outputs()[0]});
    body->return_node()->replaceInput(0, watched);
  } else if (name == "aten::linalg_eigvals") {
    torch::jit::WithInsertPoint at(node);
    node->replaceInput(0, graph->insert(c10::Symbol::fromQualString("rust_host::finite"), {node->input(0)}));
  } else if (name == "aten::div" || name == "aten::div_" || name == "aten::divide" || name == "aten::divide_") {
    const auto *schema = node->maybeSchema();
    const auto mode = schema ? schema->argumentIndexWithName("rounding_mode") : std::nullopt;
    if (!mode)
      return;
    torch::jit::WithInsertPoint at(node);
    node->replaceInput(1, graph->insert(divisor, {node->input(0), node->input(1), node->input(*mode)}));
  } else if (name == "aten::remainder" || name == "aten::floordiv" || name == "aten::divmod" || name == "aten::__round_to_zero_floordiv") {
    const bool numbers = node->inputs().size() == 2 && node->input(0)->type()->kind() == c10::TypeKind::NumberType;
    if (node->inputs().size() != 2 || is_float(0) || is_float(1) || !((is_int(0) && is_int(1)) || numbers))
      return;
    torch::jit::WithInsertPoint at(node);
    node->replaceInput(1, graph->insert(divisor, {node->input(0), node->input(1)}));
  }
}

void guard_block(torch::jit::Block *block) {
  // The list grows while it is walked: what is inserted goes in front of the node at hand.
  for (auto it = block->nodes().begin(); it != block->nodes().end(); ++it) {
    for (auto *inner : it->blocks())
      guard_block(inner);
    guard_node(*it);
  }
}

} // namespace

void guard(torch::jit::Graph &graph) { guard_block(graph.block()); }

} // namespace rust_host

extern "C" void rh_set_poll(int32_t (*ask)()) { rust_host::poll.store(ask); }
