// What is checked: integer division by zero and MIN / -1 (SIGFPE), eigenvalues of NaN, bags and packed sequences whose sizes
// do not fit (SIGSEGV), loops without an end. Operators on plain numbers and texts are replaced by checked ones for the whole
// process, because libtorch folds constants with them while it loads. The others are operators of our own, which guard.cpp
// weaves into graphs; each passes a value through or throws, so no pass of libtorch can remove or reorder it.
#include "guard.h"
#include "shim.h"
#include <ATen/ATen.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <sstream>
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
  return b.isIntegral(false) && b.to<int64_t>() == -1 && a.eq(std::numeric_limits<T>::min()).any().template item<bool>();
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

// libtorch reads and writes wherever offsets lead that are negative, fall, or are none at all.
void check_bags(const at::Tensor &indices, const at::Tensor &offsets, bool include_last) {
  const bool whole = offsets.scalar_type() == at::kLong || offsets.scalar_type() == at::kInt;
  if (!offsets.device().is_cpu() || !whole)
    return; // on a device that checks, or refused by libtorch itself
  if (offsets.dim() != 1 || indices.dim() != 1)
    throw std::runtime_error("an embedding bag takes one list of indices and one of offsets");
  const int64_t count = indices.numel();
  if (offsets.numel() <= (include_last ? 1 : 0) && count > 0)
    throw std::runtime_error("no bag for the " + std::to_string(count) + " indices of an embedding bag: its offsets are empty");
  const at::Tensor all = offsets.to(at::kLong).contiguous();
  int64_t least = 0;
  for (const int64_t offset : c10::ArrayRef<int64_t>(all.const_data_ptr<int64_t>(), all.numel())) {
    if (offset < least || offset > count)
      throw std::runtime_error("the offset " + std::to_string(offset) + " of an embedding bag, expected offsets that rise from 0 to at most " +
                               std::to_string(count));
    least = offset;
  }
}

// Sizes of a packed sequence that never grow and use up its data: a longer or negative one leads out of it.
void check_packed(const at::Tensor &data, const at::Tensor &sizes) {
  const auto refuse = [](const std::string &why) { throw std::runtime_error("the batch sizes of a packed sequence " + why); };
  if (sizes.dim() != 1 || sizes.scalar_type() != at::kLong || !sizes.device().is_cpu() || sizes.numel() == 0 || data.dim() == 0)
    refuse("are no list of integers");
  const at::Tensor all = sizes.contiguous();
  const int64_t count = data.size(0);
  int64_t most = count, sum = 0;
  for (const int64_t size : c10::ArrayRef<int64_t>(all.const_data_ptr<int64_t>(), all.numel())) {
    if (size < 1 || size > most)
      refuse("have " + std::to_string(size) + " after " + std::to_string(most));
    most = size;
    sum += size; // each is at most count, and the list lies in memory: no overflow
  }
  if (sum != count)
    refuse("sum up to " + std::to_string(sum) + ", its data has " + std::to_string(count) + " rows");
}

// The list of steps is as long as the longest sequence claims to be.
void check_lengths(const at::Tensor &data, const at::Tensor &lengths, bool batch_first) {
  const int64_t time = batch_first ? 1 : 0;
  if (lengths.numel() == 0 || data.dim() <= time || lengths.scalar_type() != at::kLong)
    return; // refused by libtorch itself
  const int64_t longest = lengths.max().item<int64_t>();
  if (longest > data.size(time))
    throw std::runtime_error("a sequence of length " + std::to_string(longest) + ", its data has " + std::to_string(data.size(time)) + " steps");
}

// Input, state and weights that do not fit each other: the fused kernels read and write past the smaller one.
void check_recurrent(const at::Tensor &input, const std::vector<at::Tensor> &state, const std::vector<at::Tensor> &weights, int64_t layers, bool batch_first) {
  const auto refuse = [](const std::string &why) { throw std::runtime_error("a recurrent network over " + why); };
  if (input.dim() != 3)
    refuse("a tensor of " + std::to_string(input.dim()) + " dimensions, expected 3");
  const int64_t batch = input.size(batch_first ? 0 : 1);
  for (const auto &h : state)
    if (h.dim() != 3 || h.size(0) != layers || h.size(1) != batch)
      refuse("a batch of " + std::to_string(batch) + " whose state has another shape");
  const bool fit = weights.size() > 1 && weights[0].dim() == 2 && weights[1].dim() == 2 && !state.empty() &&
                   input.size(2) == weights[0].size(1) && state[0].size(2) == weights[1].size(1) && weights[0].size(0) == weights[1].size(0);
  if (!fit)
    refuse("a tensor or with a state whose size does not fit its weights");
}

template <class State> void check_recurrent(Stack &stack, State state) {
  const bool batch_first = pop(stack).toBool(), bidirectional = pop(stack).toBool();
  const int64_t layers = pop(stack).toInt();
  const auto weights = pop(stack).toTensorVector();
  const c10::IValue h = pop(stack);
  check_recurrent(stack.back().toTensor(), state(h), weights, bidirectional ? 2 * layers : layers, batch_first);
}

// Sizes of a window or an edge: sums and products of larger ones overflow, and what is read then lies anywhere.
void check_sizes(const c10::IValue &sizes) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  for (const int64_t size : sizes.toIntVector())
    if (size > most || size < -most)
      throw std::runtime_error("a size of " + std::to_string(size) + ", expected at most " + std::to_string(most));
}

// Cut to an integer it is zero, and divided by.
void check_step(const at::Scalar &step, bool integral) {
  if (integral && !step.isComplex() && std::abs(step.toDouble()) < 1)
    throw std::runtime_error("integer division by zero: a range of integers in steps of less than 1");
}

// To TorchScript a type, a layout, a memory format are plain numbers, which lead into tables of functions.
void check_option(Stack &stack) {
  const int64_t count = pop(stack).toInt();
  const c10::IValue &value = stack.back();
  if (value.isInt() && (value.toInt() < 0 || value.toInt() >= count))
    throw std::runtime_error("there is no type, layout or memory format " + std::to_string(value.toInt()) + " here");
}

// One pivot for each row or column of every matrix: fewer are read past their end.
void check_pivots(const at::Tensor &lu, const at::Tensor &pivots) {
  if (lu.dim() < 2)
    return;
  std::vector<int64_t> right(lu.sizes().begin(), lu.sizes().end() - 1);
  right.back() = std::min(lu.size(-1), lu.size(-2));
  if (pivots.sizes() != c10::IntArrayRef(right))
    throw std::runtime_error("the pivots of an LU factorisation have another shape than its matrices");
}

// The fused kernel trusts both.
void check_weight_norm(const at::Tensor &v, const at::Tensor &g, int64_t dim) {
  if (dim != 0 && dim != v.dim() - 1)
    return;
  if (v.numel() == 0 || dim >= v.dim() || g.numel() != v.size(dim))
    throw std::runtime_error("a weight norm of a tensor without values, or with a length that does not fit");
}

std::atomic<int32_t (*)()> poll{nullptr};

} // namespace

void ask_interrupt() {
  if (auto *ask = poll.load())
    if (ask())
      throw Interrupted();
}

namespace {

// Asks every so often; a clock is cheaper than the question.
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
  ask_interrupt();
}

const torch::jit::RegisterOperators operators({
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
            throw std::runtime_error("NaN or infinity in a matrix whose eigenvalues are wanted, or in a number of draws");
          push(stack, a);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::bags(Tensor indices, Tensor(x) offsets, bool include_last_offset) -> Tensor(x)",
        [](Stack &stack) {
          const bool include_last = pop(stack).toBool();
          const at::Tensor offsets = pop(stack).toTensor(), indices = pop(stack).toTensor();
          check_bags(indices, offsets, include_last);
          push(stack, offsets);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::packed(Tensor data, Tensor(x) batch_sizes) -> Tensor(x)",
        [](Stack &stack) {
          const at::Tensor sizes = pop(stack).toTensor(), data = pop(stack).toTensor();
          check_packed(data, sizes);
          push(stack, sizes);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::lengths(Tensor input, Tensor(x) lengths, bool batch_first) -> Tensor(x)",
        [](Stack &stack) {
          const bool batch_first = pop(stack).toBool();
          const at::Tensor lengths = pop(stack).toTensor(), data = pop(stack).toTensor();
          check_lengths(data, lengths, batch_first);
          push(stack, lengths);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::recurrent(Tensor(x) input, Tensor[] hx, Tensor[] params, int num_layers, bool bidirectional, bool batch_first) -> Tensor(x)",
        [](Stack &stack) { check_recurrent(stack, [](const c10::IValue &h) { return h.toTensorVector(); }); },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::recurrent.one(Tensor(x) input, Tensor hx, Tensor[] params, int num_layers, bool bidirectional, bool batch_first) -> Tensor(x)",
        [](Stack &stack) { check_recurrent(stack, [](const c10::IValue &h) { return std::vector<at::Tensor>{h.toTensor()}; }); },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::step(Scalar step, int? dtype) -> Scalar",
        [](Stack &stack) {
          const c10::IValue dtype = pop(stack);
          check_step(stack.back().toScalar(), dtype.isInt() && at::isIntegralType(dtype.toScalarType(), true));
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::step.out(Scalar step, Tensor out) -> Scalar",
        [](Stack &stack) {
          const at::Tensor out = pop(stack).toTensor();
          check_step(stack.back().toScalar(), at::isIntegralType(out.scalar_type(), true));
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::groups(Tensor weight, int groups) -> int",
        [](Stack &stack) {
          const int64_t groups = pop(stack).toInt();
          const at::Tensor weight = pop(stack).toTensor();
          if (groups < 1 || weight.dim() == 0 || groups > weight.size(0))
            throw std::runtime_error("a convolution of " + std::to_string(groups) + " groups");
          push(stack, groups);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::values(Tensor(x) input) -> Tensor(x)",
        [](Stack &stack) {
          if (stack.back().toTensor().numel() == 0)
            throw std::runtime_error("a quantized norm over no values");
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::power(int n) -> int",
        [](Stack &stack) {
          if (stack.back().toInt() == std::numeric_limits<int64_t>::min())
            throw std::runtime_error("integer overflow: the smallest integer as the power of a matrix");
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::sizes(int[](x) sizes) -> int[](x)", [](Stack &stack) { check_sizes(stack.back()); },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::option(int value, int count) -> int", [](Stack &stack) { check_option(stack); },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::option.none(int? value, int count) -> int?", [](Stack &stack) { check_option(stack); },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::pivots(Tensor LU_data, Tensor(x) LU_pivots) -> Tensor(x)",
        [](Stack &stack) {
          const at::Tensor pivots = pop(stack).toTensor(), lu = pop(stack).toTensor();
          check_pivots(lu, pivots);
          push(stack, pivots);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::weight_norm(Tensor v, Tensor(x) g, int dim) -> Tensor(x)",
        [](Stack &stack) {
          const int64_t dim = pop(stack).toInt();
          const at::Tensor g = pop(stack).toTensor(), v = pop(stack).toTensor();
          check_weight_norm(v, g, dim);
          push(stack, g);
        },
        AliasAnalysisKind::FROM_SCHEMA),
    torch::jit::Operator(
        "rust_host::go_on(bool condition) -> bool",
        [](Stack &) { check_interrupt(); },
        // Not to be moved out of the loop that it watches.
        AliasAnalysisKind::CONSERVATIVE),
});

constexpr int64_t LONGEST_TEXT = 1 << 20;

// Puts a check in front of the operators of that name which `select` chooses.
template <class Select, class Check> void check_before(const char *name, Select select, Check check) {
  const auto all = torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name)); // a copy: the list changes below
  for (const auto &plain : all) {
    const c10::FunctionSchema schema = plain->schema();
    if (!select(schema) || plain->isC10Op())
      continue;
    std::ostringstream text;
    text << schema;
    torch::jit::Operation compute = plain->getOperation();
    const auto aliases = plain->aliasAnalysisKind();
    torch::jit::deregisterOperator(schema);
    torch::jit::registerOperator(torch::jit::Operator(
        text.str(),
        [check, compute](Stack &stack) mutable {
          check(stack);
          compute(stack);
        },
        aliases));
  }
}

} // namespace

void replace_operators() {
  const auto divides = [](const Stack &stack) {
    const c10::IValue &a = stack[stack.size() - 2], &b = stack.back();
    if (a.isInt() && b.isInt())
      check_division(a.toInt(), b.toInt());
  };
  // Each takes the text first and the width or size second; expandtabs' size multiplies.
  const auto pads = [](size_t arguments) {
    return [arguments](const Stack &stack) {
      const int64_t width = stack[stack.size() - arguments + 1].toInt();
      // The smallest ones less the text's length are large again.
      if (width > LONGEST_TEXT || width < std::numeric_limits<int64_t>::min() / 2)
        throw std::runtime_error("a text of " + std::to_string(width) + " characters, expected at most " + std::to_string(LONGEST_TEXT));
    };
  };
  for (const char *name : {"aten::remainder", "aten::floordiv", "aten::divmod", "aten::__round_to_zero_floordiv"})
    check_before(name, [](const c10::FunctionSchema &s) { return s.overload_name().empty() || s.overload_name() == "int"; }, divides);
  const auto any = [](const c10::FunctionSchema &) { return true; };
  for (const char *name : {"aten::ljust", "aten::rjust", "aten::center"})
    check_before(name, any, pads(3));
  // A negative one is large to it.
  check_before("aten::center", any, [](const Stack &stack) {
    if (stack[stack.size() - 2].toInt() < 0)
      throw std::runtime_error("a text of " + std::to_string(stack[stack.size() - 2].toInt()) + " characters");
  });
  check_before("aten::factorial", [](const c10::FunctionSchema &s) { return s.overload_name() == "int"; }, [](const Stack &stack) {
    if (stack.back().toInt() > LONGEST_TEXT)
      throw std::runtime_error("the factorial of " + std::to_string(stack.back().toInt()) + ", expected at most of " + std::to_string(LONGEST_TEXT));
  });
  check_before("aten::gcd", [](const c10::FunctionSchema &s) { return s.overload_name() == "int"; }, [](const Stack &stack) {
    const int64_t a = stack[stack.size() - 2].toInt(), b = stack.back().toInt();
    check_division(a, b == -1 ? b : 1);
    check_division(b, a == -1 ? a : 1);
  });
  for (const char *name : {"aten::zfill", "aten::expandtabs"})
    check_before(name, any, pads(2));
  // These look for an empty text for ever. The text that is searched comes first, what is looked for second.
  for (const auto &[name, count] : {std::pair{"aten::count", 4U}, {"aten::replace", 4U}, {"aten::rsplit", 3U}})
    check_before(
        name, [](const c10::FunctionSchema &s) { return s.arguments().at(0).type()->kind() == c10::TypeKind::StringType; },
        [arguments = count](const Stack &stack) {
          if (stack[stack.size() - arguments + 1].toStringRef().empty())
            throw std::runtime_error("a search for an empty text");
        });
}

} // namespace rust_host

extern "C" void rh_set_poll(int32_t (*ask)()) { rust_host::poll.store(ask); }
