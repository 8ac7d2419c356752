// What honest models do that would end or hang the process: integer division by zero and MIN / -1 (SIGFPE), eigenvalues of
// NaN, bags and packed sequences whose sizes do not fit (SIGSEGV), loops without an end. Operators on plain numbers and texts are replaced by checked ones for the whole
// process, because libtorch folds constants with them while it loads. For the rest, small checks are woven into a module's
// graphs before it runs; each passes a value through or throws, so no pass of libtorch can remove or reorder it.
#include "guard.h"
#include "shim.h"
#include <ATen/ATen.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <sstream>
#include <unordered_map>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
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
// Far more than any real model: a network of 1,000 layers, unrolled, has some 10,000.
constexpr size_t MOST_NODES = 2'000'000;

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

// Checks whose arguments are the operator's own, by name; what they return takes the place of one of these.
struct Watched {
  const char *operators, *check;
  std::vector<const char *> arguments;
  size_t replaced;
};
const std::vector<const char *> RECURRENT = {"input", "hx", "params", "num_layers", "bidirectional", "batch_first"};
const std::vector<Watched> WATCHED = {
    {"aten::embedding_bag", "rust_host::bags", {"indices", "offsets", "include_last_offset"}, 1},
    {"aten::_pack_padded_sequence", "rust_host::lengths", {"input", "lengths", "batch_first"}, 1},
    {"aten::_pad_packed_sequence", "rust_host::packed", {"data", "batch_sizes"}, 1},
    {"aten::lu_unpack", "rust_host::pivots", {"LU_data", "LU_pivots"}, 1},
    {"aten::_weight_norm", "rust_host::weight_norm", {"v", "g", "dim"}, 1},
    {"aten::binomial", "rust_host::finite", {"count"}, 0}, // never ends
    {"aten::range", "rust_host::step", {"step", "dtype"}, 0},
    {"aten::range", "rust_host::step", {"step", "out"}, 0},
    {"quantized::conv_transpose1d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::conv_transpose2d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::conv_transpose3d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::conv1d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::conv2d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::conv3d_prepack", "rust_host::groups", {"weight", "groups"}, 1},
    {"quantized::group_norm", "rust_host::values", {"input"}, 0}, // divides by how many there are
    {"quantized::instance_norm", "rust_host::values", {"input"}, 0},
    {"quantized::layer_norm", "rust_host::values", {"input"}, 0},
    {"aten::matrix_power", "rust_host::power", {"n"}, 0},
    {"aten::linalg_matrix_power", "rust_host::power", {"n"}, 0},
    // Over a packed sequence, and over a plain tensor.
    {"aten::lstm", "rust_host::packed", {"data", "batch_sizes"}, 1},
    {"aten::gru", "rust_host::packed", {"data", "batch_sizes"}, 1},
    {"aten::rnn_tanh", "rust_host::packed", {"data", "batch_sizes"}, 1},
    {"aten::rnn_relu", "rust_host::packed", {"data", "batch_sizes"}, 1},
    {"aten::lstm", "rust_host::recurrent", RECURRENT, 0},
    {"aten::gru", "rust_host::recurrent", RECURRENT, 0},
    {"aten::rnn_tanh", "rust_host::recurrent", RECURRENT, 0},
    {"aten::rnn_relu", "rust_host::recurrent", RECURRENT, 0},
};
// Operators all of whose sizes are checked.
const char *const WINDOWS[] = {"aten::im2col", "aten::col2im", "aten::pad", "aten::constant_pad_nd"};
const char *const WINDOW_FAMILIES[] = {"aten::replication_pad", "aten::reflection_pad", "aten::max_pool", "aten::avg_pool", "aten::conv"};

bool has_windows(const std::string &name) {
  return std::any_of(std::begin(WINDOWS), std::end(WINDOWS), [&](const char *n) { return name == n; }) ||
         std::any_of(std::begin(WINDOW_FAMILIES), std::end(WINDOW_FAMILIES), [&](const char *n) { return name.rfind(n, 0) == 0; });
}

// How many values the enumeration of that type has; 0 for any other type.
int64_t options_of(const c10::TypePtr &type) {
  switch (type->kind()) {
  case c10::TypeKind::OptionalType:
    return options_of(type->expectRef<c10::OptionalType>().getElementType());
  case c10::TypeKind::ScalarTypeType:
    return static_cast<int64_t>(at::ScalarType::Undefined);
  case c10::TypeKind::LayoutType:
    return static_cast<int64_t>(at::Layout::Mkldnn); // oneDNN's writes past the end for types that it does not have
  case c10::TypeKind::MemoryFormatType:
    return static_cast<int64_t>(at::MemoryFormat::NumOptions);
  default:
    return 0;
  }
}

void check_options(torch::jit::Node *node, const std::string &name) {
  const auto *schema = node->maybeSchema();
  for (size_t i = 0; schema && i < schema->arguments().size() && i < node->inputs().size(); ++i) {
    const auto &argument = schema->arguments()[i];
    // `aten::to` takes a type as a plain number by its schema too.
    const int64_t count = options_of(argument.name() == "dtype" && name == "aten::to" ? c10::ScalarTypeType::get() : argument.real_type());
    const auto known = torch::jit::toIValue(node->input(i));
    if (count == 0 || (known && (known->isNone() || (known->isInt() && known->toInt() >= 0 && known->toInt() < count))))
      continue;
    torch::jit::WithInsertPoint at(node);
    node->replaceInput(i, node->owningGraph()->insert(c10::Symbol::fromQualString("rust_host::option"), {node->input(i), count}));
  }
}

// Puts the checks of a watched node in front of it.
void watch(torch::jit::Node *node, const std::string &name) {
  const bool windows = has_windows(name);
  const bool listed = std::any_of(WATCHED.begin(), WATCHED.end(), [&](const Watched &w) { return name == w.operators; });
  const auto *schema = windows || listed ? node->maybeSchema() : nullptr;
  if (!schema)
    return;
  torch::jit::WithInsertPoint at(node);
  const auto replace = [&](size_t index, const char *check, const std::vector<torch::jit::NamedValue> &values) {
    node->replaceInput(index, node->owningGraph()->insert(c10::Symbol::fromQualString(check), values));
  };
  for (const Watched &watched : WATCHED) {
    std::vector<torch::jit::NamedValue> values;
    for (const char *argument : watched.arguments)
      if (const auto index = name == watched.operators ? schema->argumentIndexWithName(argument) : std::nullopt)
        values.emplace_back(node->input(*index));
    if (values.size() == watched.arguments.size()) // else it is another overload
      replace(*schema->argumentIndexWithName(watched.arguments[watched.replaced]), watched.check, values);
  }
  for (size_t i = 0; windows && i < node->inputs().size(); ++i)
    if (node->input(i)->type()->isSubtypeOf(*c10::ListType::ofInts()))
      replace(i, "rust_host::sizes", {node->input(i)});
}

void guard_node(torch::jit::Node *node) {
  static const auto divisor = c10::Symbol::fromQualString("rust_host::divisor");
  const auto kind = node->kind();
  const std::string name = kind.toQualString();
  auto *graph = node->owningGraph();
  check_options(node, name);
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
  } else {
    watch(node, name);
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


void refuse_false_casts(torch::jit::Block *block) {
  for (auto *node : block->nodes()) {
    for (auto *inner : node->blocks())
      refuse_false_casts(inner);
    if (node->kind() != c10::prim::unchecked_cast || node->output()->type()->kind() != c10::TypeKind::ClassType)
      continue;
    // An object read as another class has its attributes in other places: foreign memory. Honest code narrows Optional.
    const auto &from = node->input()->type(), &to = node->output()->type();
    if (from->kind() == c10::TypeKind::AnyType || !to->isSubtypeOf(*from))
      throw std::runtime_error("the code reads a value of the type " + from->annotation_str() + " as " + to->annotation_str());
  }
}

// Nodes that a function has once everything it calls is written into it, as libtorch does before it runs.
size_t inlined_size(torch::jit::Function &function, std::unordered_map<torch::jit::Function *, size_t> &known) {
  const auto found = known.find(&function);
  if (found != known.end())
    return found->second;
  size_t size = 0;
  const auto visit = [&](auto &&self, torch::jit::Block *block) -> void {
    for (auto *node : block->nodes()) {
      ++size;
      torch::jit::Function *called = nullptr;
      if (node->kind() == c10::prim::CallFunction) {
        if (auto type = node->input(0)->type()->cast<c10::FunctionType>())
          called = type->function();
      } else if (node->kind() == c10::prim::CallMethod) {
        if (auto type = node->input(0)->type()->cast<c10::ClassType>())
          called = type->findMethod(node->s(c10::attr::name));
      }
      if (called)
        size = std::min(size + inlined_size(*called, known), MOST_NODES + 1);
      for (auto *inner : node->blocks())
        self(self, inner);
    }
  };
  known[&function] = 0; // TorchScript has no recursion; a file that claims some must not recurse here either
  if (auto *graph = torch::jit::tryToGraphFunction(function))
    visit(visit, graph->graph()->block());
  if (size > MOST_NODES)
    throw std::runtime_error("`" + function.name() + "` calls others so often that its graph would have more than " +
                             std::to_string(MOST_NODES) + " nodes");
  return known[&function] = size;
}

} // namespace

void refuse_hostile(torch::jit::CompilationUnit &unit) {
  std::unordered_map<torch::jit::Function *, size_t> known;
  for (auto *function : unit.get_functions()) {
    inlined_size(*function, known);
    if (auto *graph = torch::jit::tryToGraphFunction(*function))
      refuse_false_casts(graph->graph()->block());
  }
}

void guard(torch::jit::Graph &graph) { guard_block(graph.block()); }

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
