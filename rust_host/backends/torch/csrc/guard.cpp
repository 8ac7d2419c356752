// Where checks stand: in front of what an honest model does that would end or hang the process. And what only a hostile file
// has, which is refused.
#include "guard.h"
#include <algorithm>
#include <unordered_map>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>

namespace rust_host {
namespace {

// Far more than any real model: a network of 1,000 layers, unrolled, has some 10,000.
constexpr size_t MOST_NODES = 2'000'000;

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

} // namespace rust_host
