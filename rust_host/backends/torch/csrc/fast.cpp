#include "fast.h"
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/passes/frozen_graph_optimizations.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/custom_operator.h>
#include <torch/csrc/jit/runtime/operator.h>

namespace rust_host {
namespace {

using c10::Symbol;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::pop;
using torch::jit::push;
using torch::jit::Stack;
using torch::jit::Value;
using Scalars = c10::List<std::optional<at::Scalar>>;

// Below this many multiplications oneDNN's preparations for a call (5 µs) cost more than its kernels save.
constexpr int64_t FEWEST_IN_LINEAR = 500'000, FEWEST_IN_CONVOLUTION = 150'000;

template <class Signature> auto find(const char *name) { return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>(); }

at::Tensor pointwise_linear(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b, const std::string &activation) {
  using Signature = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, std::string_view, Scalars, std::optional<std::string_view>);
  static const auto op = find<Signature>("mkldnn::_linear_pointwise");
  const bool gelu = activation.rfind("gelu", 0) == 0;
  const std::optional<std::string_view> algorithm = gelu ? std::optional<std::string_view>(activation == "gelu_tanh" ? "tanh" : "none") : std::nullopt;
  return op.call(x, w, b, gelu ? "gelu" : std::string_view(activation), Scalars(), algorithm);
}

at::Tensor pointwise_convolution(const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &b, at::IntArrayRef padding, at::IntArrayRef stride, at::IntArrayRef dilation, int64_t groups, const std::string &activation) {
  using Signature = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view, Scalars, std::optional<std::string_view>);
  static const auto op = find<Signature>("mkldnn::_convolution_pointwise");
  const bool gelu = activation.rfind("gelu", 0) == 0;
  const std::optional<std::string_view> algorithm = gelu ? std::optional<std::string_view>(activation == "gelu_tanh" ? "tanh" : "none") : std::nullopt;
  return op.call(x, w, b, padding, stride, dilation, groups, gelu ? "gelu" : std::string_view(activation), Scalars(), algorithm);
}

at::Tensor plain_activation(at::Tensor x, const std::string &name) {
  if (name == "relu")
    return at::relu(x);
  if (name == "sigmoid")
    return at::sigmoid(x);
  if (name == "tanh")
    return at::tanh(x);
  if (name == "swish")
    return at::silu(x);
  if (name == "hardswish")
    return at::hardswish(x);
  if (name == "gelu_none")
    return at::gelu(x, "none");
  if (name == "gelu_tanh")
    return at::gelu(x, "tanh");
  return x;
}

// What oneDNN takes without a question; for anything else the plain operator gives the answer, or the error.
bool is_plain_floats(const at::Tensor &x) { return x.scalar_type() == at::kFloat && x.device().is_cpu() && x.layout() == at::kStrided && x.numel() > 0 && !x.is_neg(); }

at::Tensor linear(const at::Tensor &x, const at::Tensor &packed, const at::Tensor &weight, const std::optional<at::Tensor> &bias, const std::string &activation) {
  if (!is_plain_floats(x) || x.dim() < 1 || x.size(-1) != weight.size(1) || x.numel() * weight.size(0) < FEWEST_IN_LINEAR)
    return plain_activation(at::linear(x, weight, bias), activation);
  return pointwise_linear(x, packed, bias, activation);
}

// Channels last without a copy where there is one channel: the two layouts are the same bytes then, but oneDNN goes by strides.
at::Tensor channels_last(const at::Tensor &x) {
  if (x.size(1) == 1 && x.is_contiguous())
    return at::as_strided(x, x.sizes(), {x.size(2) * x.size(3), 1, x.size(3), 1});
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

bool fits(const at::Tensor &x, const at::Tensor &weight, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  if (x.dim() != 4 || x.size(1) != weight.size(1) * groups)
    return false;
  int64_t multiplications = x.size(0) * weight.numel();
  for (int64_t d = 0; d < 2; ++d) {
    const int64_t room = x.size(2 + d) + 2 * padding[d] - dilation[d] * (weight.size(2 + d) - 1) - 1;
    if (room < 0)
      return false;
    multiplications *= room / stride[d] + 1;
  }
  return multiplications >= FEWEST_IN_CONVOLUTION;
}

at::Tensor convolution(const at::Tensor &x, const at::Tensor &packed, const at::Tensor &weight, const std::optional<at::Tensor> &bias, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups, const std::string &activation) {
  if (!is_plain_floats(x) || !fits(x, weight, stride, padding, dilation, groups))
    return plain_activation(at::conv2d(x, weight, bias, stride, padding, dilation, groups), activation);
  return pointwise_convolution(channels_last(x), packed, bias, padding, stride, dilation, groups, activation);
}

const Symbol LINEAR = Symbol::fromQualString("rust_host::linear");
const Symbol CONVOLUTION = Symbol::fromQualString("rust_host::convolution");
const Symbol PACKED = Symbol::attr("packed"), WEIGHT = Symbol::attr("weight"), BIAS = Symbol::attr("bias"), ACTIVATION = Symbol::attr("activation");
const Symbol STRIDE = Symbol::attr("stride"), PADDING = Symbol::attr("padding"), DILATION = Symbol::attr("dilation"), GROUPS = Symbol::attr("groups");

// A layer with everything but its input, as attributes of its node: read once, when the graph is made ready to run.
struct Layer {
  at::Tensor packed, weight;
  std::optional<at::Tensor> bias;
  std::string activation;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups = 1;

  explicit Layer(const Node *node) : packed(node->t(PACKED)), weight(node->t(WEIGHT)), activation(node->s(ACTIVATION)) {
    if (node->hasAttribute(BIAS))
      bias = node->t(BIAS);
    if (node->kind() != CONVOLUTION)
      return;
    stride = node->is(STRIDE);
    padding = node->is(PADDING);
    dilation = node->is(DILATION);
    groups = node->i(GROUPS);
  }
};

const torch::jit::RegisterOperators operators({
    torch::jit::Operator(
        LINEAR,
        [](const Node *node) -> torch::jit::Operation {
          return [layer = Layer(node)](Stack &stack) { push(stack, linear(pop(stack).toTensor(), layer.packed, layer.weight, layer.bias, layer.activation)); };
        },
        c10::AliasAnalysisKind::PURE_FUNCTION),
    torch::jit::Operator(
        CONVOLUTION,
        [](const Node *node) -> torch::jit::Operation {
          return [layer = Layer(node)](Stack &stack) {
            push(stack, convolution(pop(stack).toTensor(), layer.packed, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups, layer.activation));
          };
        },
        c10::AliasAnalysisKind::PURE_FUNCTION),
});

template <class Visit> void for_each_node(torch::jit::Block *block, Visit &&visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node *node = *it++; // the visit may destroy it
    for (auto *inner : node->blocks())
      for_each_node(inner, visit);
    visit(node);
  }
}

std::optional<c10::IValue> constant(Value *value) { return torch::jit::toIValue(value); }

// Random only where it drops something out, which `eval()` and constants have ruled out.
bool drops_nothing(Node *node) {
  const auto *schema = node->maybeSchema();
  if (!schema)
    return false;
  const auto is = [&](const char *name, const c10::IValue &wanted) {
    const auto at = schema->argumentIndexWithName(name);
    const auto value = at ? constant(node->input(*at)) : std::nullopt;
    return value && *value == wanted;
  };
  return is("train", false) || is("training", false) || is("dropout", 0.0) || is("dropout_p", 0.0) || is("p", 0.0);
}

// Running it once more would be noticed, or it gives other numbers each time.
bool runs_once(Graph &graph) {
  bool found = false;
  for_each_node(graph.block(), [&](Node *node) {
    const std::string kind = node->kind().toQualString();
    found |= kind == "prim::Print" || kind == "aten::warn" || kind == "prim::fork" || kind == "aten::wait" || kind == "aten::manual_seed";
    found |= node->isNondeterministic() && !drops_nothing(node);
  });
  return found;
}

std::optional<at::Tensor> weight_of(Value *value, int64_t dims) {
  const auto found = constant(value);
  if (!found || !found->isTensor())
    return std::nullopt;
  const at::Tensor w = found->toTensor();
  const bool usable = w.defined() && is_plain_floats(w) && w.dim() == dims;
  return usable ? std::optional<at::Tensor>(w.detach()) : std::nullopt;
}

bool is_bias(Value *value, int64_t size) {
  const auto found = constant(value);
  if (!found)
    return false;
  return found->isNone() || (found->isTensor() && is_plain_floats(found->toTensor()) && found->toTensor().dim() == 1 && found->toTensor().size(0) == size);
}

std::optional<std::vector<int64_t>> pair(Value *value) {
  const auto found = constant(value);
  if (!found || !found->isIntList())
    return std::nullopt;
  auto list = found->toIntVector();
  if (list.size() == 1)
    list.push_back(list[0]);
  return list.size() == 2 ? std::optional<std::vector<int64_t>>(list) : std::nullopt;
}

// What follows the layer and can be part of it.
std::string activation_name(Node *node) {
  const std::string kind = node->kind().toQualString();
  if (kind == "aten::relu" || kind == "aten::sigmoid" || kind == "aten::tanh" || kind == "aten::hardswish")
    return kind.substr(6);
  if (kind == "aten::silu")
    return "swish";
  if (kind == "aten::gelu")
    if (const auto how = constant(node->input(1)))
      return "gelu_" + how->toStringRef();
  return "";
}

// Puts a layer in the place of `node`, and of the activation behind it where nothing else uses what is between.
Node *replace(Graph &graph, Node *node, Symbol kind, const at::Tensor &packed, const at::Tensor &weight) {
  Node *last = node;
  std::string activation;
  const auto &uses = node->output()->uses();
  if (uses.size() == 1 && uses[0].user->owningBlock() == node->owningBlock())
    activation = activation_name(uses[0].user);
  if (!activation.empty())
    last = uses[0].user;
  Node *layer = graph.create(kind, {node->input(0)})->insertBefore(node);
  layer->t_(PACKED, packed)->t_(WEIGHT, weight)->s_(ACTIVATION, activation.empty() ? "none" : activation);
  if (const auto bias = constant(node->input(2)); bias && bias->isTensor())
    layer->t_(BIAS, bias->toTensor().detach());
  layer->output()->setType(last->output()->type());
  last->output()->replaceAllUsesWith(layer->output());
  if (last != node)
    last->destroy();
  node->destroy();
  return layer;
}

bool pack_linear(Graph &graph, Node *node) {
  const auto weight = weight_of(node->input(1), 2);
  if (!weight || !is_bias(node->input(2), weight->size(0)))
    return false;
  static const auto reorder = find<at::Tensor(const at::Tensor &, std::optional<int64_t>)>("mkldnn::_reorder_linear_weight");
  replace(graph, node, LINEAR, reorder.call(*weight, std::nullopt), *weight);
  return true;
}

bool pack_convolution(Graph &graph, Node *node) {
  const bool raw = std::string(node->kind().toQualString()) == "aten::_convolution";
  const auto weight = weight_of(node->input(1), 4);
  if (!weight || !is_bias(node->input(2), weight->size(0)))
    return false;
  const auto stride = pair(node->input(3)), padding = pair(node->input(4)), dilation = pair(node->input(5));
  if (raw) {
    const auto transposed = constant(node->input(6));
    if (!transposed || transposed->toBool())
      return false;
  }
  const auto groups = constant(node->input(raw ? 8 : 6));
  if (!stride || !padding || !dilation || !groups || groups->toInt() < 1 || weight->size(0) % groups->toInt() != 0)
    return false;
  for (int64_t d = 0; d < 2; ++d)
    if ((*stride)[d] < 1 || (*padding)[d] < 0 || (*dilation)[d] < 1)
      return false;
  static const auto reorder = find<at::Tensor(const at::Tensor &, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight");
  Node *layer = replace(graph, node, CONVOLUTION, reorder.call(*weight, *padding, *stride, *dilation, groups->toInt(), std::nullopt), *weight);
  layer->is_(STRIDE, *stride)->is_(PADDING, *padding)->is_(DILATION, *dilation)->i_(GROUPS, groups->toInt());
  return true;
}

// A layer's output may lie channels last, which no view can split; a reshape copies where it must. Only where nothing is
// written through either: a view shares memory, a copy does not.
void allow_any_layout(const std::shared_ptr<Graph> &graph) {
  const torch::jit::AliasDb aliases(graph);
  std::vector<Node *> views;
  for_each_node(graph->block(), [&](Node *node) {
    const bool sizes = node->kind() == c10::aten::view && node->input(1)->type()->kind() == c10::TypeKind::ListType;
    if (sizes && !aliases.hasWriters(node->input(0)) && !aliases.hasWriters(node->output()))
      views.push_back(node);
  });
  for (Node *node : views) {
    torch::jit::WithInsertPoint at(node);
    Value *output = graph->insert(c10::aten::reshape, {node->input(0), node->input(1)});
    output->setType(node->output()->type());
    node->output()->replaceAllUsesWith(output);
    node->destroy();
  }
}

bool writes_to_inputs(const std::shared_ptr<Graph> &graph) {
  const torch::jit::AliasDb aliases(graph);
  return std::any_of(graph->inputs().begin(), graph->inputs().end(), [&](Value *input) { return aliases.hasWriters(input); });
}

} // namespace

std::unique_ptr<Fast> Fast::of(const torch::jit::Module &module) {
  c10::InferenceMode inference;
  auto frozen = torch::jit::freeze_module(module);
  auto graph = frozen.get_method("forward").graph();
  torch::jit::Inline(*graph);
  torch::jit::OptimizeFrozenGraph(graph, /*optimize_numerics=*/true);
  torch::jit::RemoveTensorMutation(graph);
  torch::jit::ConstantPropagation(graph);
  if (runs_once(*graph) || writes_to_inputs(graph))
    return nullptr;
  std::vector<Node *> candidates; // first, because a layer takes the node behind it along
  for_each_node(graph->block(), [&](Node *node) {
    const std::string kind = node->kind().toQualString();
    if (kind == "aten::linear" || kind == "aten::conv2d" || kind == "aten::_convolution")
      candidates.push_back(node);
  });
  size_t layers = 0;
  bool convolutions = false;
  for (Node *node : candidates) {
    const bool is_linear = node->kind() == c10::aten::linear;
    if (!(is_linear ? pack_linear(*graph, node) : pack_convolution(*graph, node)))
      continue;
    ++layers;
    convolutions |= !is_linear;
  }
  if (layers == 0)
    return nullptr;
  if (convolutions)
    allow_any_layout(graph);
  torch::jit::EliminateDeadCode(graph);
  return std::unique_ptr<Fast>(new Fast(std::move(frozen), layers));
}

Fast::Fast(torch::jit::Module frozen, size_t layers)
    : module(std::move(frozen)), executor(module.get_method("forward").graph(), "forward", torch::jit::ExecutorExecutionMode::SIMPLE), layers_(layers) {}

bool agrees(const c10::IValue &a, const c10::IValue &b, const Tolerance &tolerance, int depth) {
  if (depth > 64 || a.tagKind() != b.tagKind())
    return false;
  const auto all = [&](const auto &xs, const auto &ys) {
    if (xs.size() != ys.size())
      return false;
    for (size_t i = 0; i < xs.size(); ++i)
      if (!agrees(xs[i], ys[i], tolerance, depth + 1))
        return false;
    return true;
  };
  if (a.isTensor()) {
    const at::Tensor &x = a.toTensor(), &y = b.toTensor();
    if (!x.defined() || !y.defined())
      return x.defined() == y.defined();
    if (x.sizes() != y.sizes() || x.scalar_type() != y.scalar_type() || x.layout() != at::kStrided || y.layout() != at::kStrided)
      return false;
    if (!x.is_floating_point())
      return x.equal(y);
    if (x.numel() == 0)
      return true;
    const auto sizes = x.abs().nan_to_num(0.0, 0.0, 0.0).to(at::kDouble);
    const double atol = tolerance.atol + tolerance.atol_of_largest * sizes.max().item<double>();
    return at::allclose(y.to(at::kDouble), x.to(at::kDouble), tolerance.rtol, atol, /*equal_nan=*/true);
  }
  if (a.isTuple())
    return all(a.toTupleRef().elements(), b.toTupleRef().elements());
  if (a.isList())
    return all(a.toListRef(), b.toListRef());
  if (a.isGenericDict()) {
    const auto x = a.toGenericDict(), y = b.toGenericDict();
    if (x.size() != y.size())
      return false;
    for (const auto &entry : x) {
      const auto other = y.find(entry.key());
      if (other == y.end() || !agrees(entry.value(), other->value(), tolerance, depth + 1))
        return false;
    }
    return true;
  }
  if (a.isDouble()) {
    const double x = a.toDouble(), y = b.toDouble();
    // A number alone has no larger ones beside it: 1 stands for them.
    const double distance = tolerance.atol + tolerance.atol_of_largest + tolerance.rtol * std::abs(x);
    return x == y || std::abs(x - y) <= distance || (std::isnan(x) && std::isnan(y));
  }
  return !a.isObject() && a == b;
}

} // namespace rust_host
