#include "fast.h"
#include "convolution.h"
#include "lstm.h"
#include "small.h"
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <set>
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
using torch::jit::toIValue;
using torch::jit::Value;
using Scalars = c10::List<std::optional<at::Scalar>>;

// Below this many multiplications oneDNN's preparations for a call (5 µs) cost more than its kernels save.
constexpr int64_t FEWEST_IN_LINEAR = 500'000, FEWEST_IN_CONVOLUTION = 150'000;

template <class Signature> auto find(const char *name) { return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>(); }

// What may follow a layer and be part of it: libtorch's operator, and oneDNN's name and algorithm.
struct Activation {
  const char *kind, *how; // `how` is gelu's argument
  std::string_view name;
  std::optional<std::string_view> algorithm;
  at::Tensor (*plain)(const at::Tensor &);
};
const Activation ACTIVATIONS[] = {
    {"", nullptr, "none", std::nullopt, [](const at::Tensor &x) { return x; }},
    {"aten::relu", nullptr, "relu", std::nullopt, [](const at::Tensor &x) { return at::relu(x); }},
    {"aten::sigmoid", nullptr, "sigmoid", std::nullopt, [](const at::Tensor &x) { return at::sigmoid(x); }},
    {"aten::tanh", nullptr, "tanh", std::nullopt, [](const at::Tensor &x) { return at::tanh(x); }},
    {"aten::silu", nullptr, "swish", std::nullopt, [](const at::Tensor &x) { return at::silu(x); }},
    {"aten::hardswish", nullptr, "hardswish", std::nullopt, [](const at::Tensor &x) { return at::hardswish(x); }},
    {"aten::gelu", "none", "gelu", "none", [](const at::Tensor &x) { return at::gelu(x, "none"); }},
    {"aten::gelu", "tanh", "gelu", "tanh", [](const at::Tensor &x) { return at::gelu(x, "tanh"); }},
};
constexpr size_t NO_ACTIVATION = 0, RELU = 1;

// The place in that list of what `node` computes.
size_t activation_of(Node *node) {
  const std::string kind = node->kind().toQualString();
  for (size_t i = NO_ACTIVATION + 1; i < std::size(ACTIVATIONS); ++i) {
    if (kind != ACTIVATIONS[i].kind)
      continue;
    const auto how = ACTIVATIONS[i].how ? toIValue(node->input(1)) : std::nullopt;
    if (!ACTIVATIONS[i].how || (how && how->toStringRef() == ACTIVATIONS[i].how))
      return i;
  }
  return NO_ACTIVATION;
}

// What oneDNN takes without a question; for anything else the plain operator gives the answer, or the error.
bool is_plain_floats(const at::Tensor &x) { return x.scalar_type() == at::kFloat && x.device().is_cpu() && x.layout() == at::kStrided && x.numel() > 0 && !x.is_neg(); }

// oneDNN's layer, whose relu gives zero for NaN: that one follows it.
template <class Call> at::Tensor with_activation(const Activation &activation, const Call &call) {
  if (&activation != &ACTIVATIONS[RELU])
    return call(activation);
  return call(ACTIVATIONS[NO_ACTIVATION]).relu_();
}

// Channels last without a copy where there is one channel: the two layouts are the same bytes then, but oneDNN goes by strides.
at::Tensor channels_last(const at::Tensor &x) {
  if (x.size(1) == 1 && x.is_contiguous())
    return at::as_strided(x, x.sizes(), {x.size(2) * x.size(3), 1, x.size(3), 1});
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

const Symbol LINEAR = Symbol::fromQualString("rust_host::linear"), CONVOLUTION = Symbol::fromQualString("rust_host::convolution"), LSTM = Symbol::fromQualString("rust_host::lstm"), CHAIN = Symbol::fromQualString("rust_host::chain");
const Symbol PACKED = Symbol::attr("packed"), WEIGHT = Symbol::attr("weight"), BIAS = Symbol::attr("bias"), ACTIVATION = Symbol::attr("activation");
const Symbol BATCH_FIRST = Symbol::attr("batch_first");
const Symbol STRIDE = Symbol::attr("stride"), PADDING = Symbol::attr("padding"), DILATION = Symbol::attr("dilation"), GROUPS = Symbol::attr("groups");

at::Tensor packed_for_linear(const at::Tensor &weight) {
  static const auto op = find<at::Tensor(const at::Tensor &, std::optional<int64_t>)>("mkldnn::_reorder_linear_weight");
  return op.call(weight, std::nullopt);
}

// oneDNN's product where it is worth its call.
at::Tensor linear(const at::Tensor &x, const at::Tensor &packed, const at::Tensor &weight, const std::optional<at::Tensor> &bias, const Activation &activation) {
  if (x.numel() * weight.size(0) < FEWEST_IN_LINEAR)
    return activation.plain(at::linear(x, weight, bias));
  using Signature = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, std::string_view, Scalars, std::optional<std::string_view>);
  static const auto op = find<Signature>("mkldnn::_linear_pointwise");
  return with_activation(activation, [&](const Activation &a) { return op.call(x, packed, bias, a.name, Scalars(), a.algorithm); });
}

// A layer with everything but its input, as attributes of its node: read once, when the graph is made ready to run.
struct Layer {
  at::Tensor packed, weight;
  std::optional<at::Tensor> bias;
  const Activation &activation;

  explicit Layer(const Node *node) : packed(node->t(PACKED)), weight(node->t(WEIGHT)), activation(ACTIVATIONS[node->i(ACTIVATION)]) {
    if (node->hasAttribute(BIAS))
      bias = node->t(BIAS);
  }
};

struct Linear : Layer {
  SmallLayers small;
  std::optional<DirectConvolution> direct;

  explicit Linear(const Node *node) : Layer(node) {
    small.add(weight, bias, has_relu());
    if (is_direct(weight, activation))
      direct.emplace(as_convolution(weight), bias, std::vector<int64_t>{1, 1}, std::vector<int64_t>{0, 0});
  }

  static at::Tensor as_convolution(const at::Tensor &weight) { return weight.unsqueeze(-1).unsqueeze(-1); }

  // Our own kernel: then there is no form of the weights for oneDNN. Of activations it has relu inside, oneDNN has all; with
  // fewer outputs than a vector has places most of the kernel's work would be thrown away.
  static bool is_direct(const at::Tensor &weight, const Activation &activation) {
    const bool is_inside = &activation == &ACTIVATIONS[NO_ACTIVATION] || &activation == &ACTIVATIONS[RELU];
    return is_inside && weight.size(0) >= 16 && DirectConvolution::is_for(as_convolution(weight));
  }

  bool has_relu() const { return &activation == &ACTIVATIONS[RELU]; }
  bool takes(const at::Tensor &x) const { return is_plain_floats(x) && x.dim() >= 1 && x.size(-1) == weight.size(1); }
  // What our own kernels, which have relu inside, leave of the activation.
  at::Tensor activated(at::Tensor y) const { return has_relu() ? y : activation.plain(y); }

  at::Tensor operator()(const at::Tensor &x) const {
    if (!takes(x))
      return activation.plain(at::linear(x, weight, bias));
    if (small.fits(x))
      return activated(small(x));
    return direct ? direct->of_rows(x.contiguous(), has_relu()) : linear(x, packed, weight, bias, activation);
  }
};

// Linear layers behind one another, which are computed in one where they and the input are small.
struct Chain {
  std::vector<Linear> layers;
  SmallLayers small;

  // The layer, or all that it has in its subgraph.
  explicit Chain(const Node *node) {
    if (node->kind() == LINEAR)
      layers.emplace_back(node);
    else
      for (const Node *layer : node->g(c10::attr::Subgraph)->nodes())
        layers.emplace_back(layer);
    for (const Linear &layer : layers)
      if (!small.add(layer.weight, layer.bias, layer.has_relu()))
        break;
  }

  at::Tensor operator()(const at::Tensor &x) const {
    if (layers.front().takes(x) && small.fits(x))
      return layers.back().activated(small(x));
    at::Tensor y = x;
    for (const Linear &layer : layers)
      y = layer(y);
    return y;
  }
};

struct Convolution : Layer {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups;
  std::optional<DirectConvolution> direct;

  explicit Convolution(const Node *node) : Layer(node), stride(node->is(STRIDE)), padding(node->is(PADDING)), dilation(node->is(DILATION)), groups(node->i(GROUPS)) {
    if (is_direct(weight, dilation, groups))
      direct.emplace(weight, bias, stride, padding);
  }

  // Our own kernel: then there is no form of the weights for oneDNN.
  static bool is_direct(const at::Tensor &weight, const std::vector<int64_t> &dilation, int64_t groups) {
    return groups == 1 && dilation[0] == 1 && dilation[1] == 1 && DirectConvolution::is_for(weight);
  }

  bool fits(const at::Tensor &x) const {
    if (!is_plain_floats(x) || x.dim() != 4 || x.size(1) != weight.size(1) * groups)
      return false;
    int64_t multiplications = x.size(0) * weight.numel();
    for (int64_t d = 0; d < 2; ++d) {
      const int64_t room = x.size(2 + d) + 2 * padding[d] - dilation[d] * (weight.size(2 + d) - 1) - 1;
      if (room < 0)
        return false;
      multiplications *= room / stride[d] + 1;
    }
    return direct || multiplications >= FEWEST_IN_CONVOLUTION;
  }

  at::Tensor operator()(const at::Tensor &x) const {
    if (!fits(x))
      return activation.plain(at::conv2d(x, weight, bias, stride, padding, dilation, groups));
    if (direct) {
      const bool relu = &activation == &ACTIVATIONS[RELU];
      at::Tensor y = (*direct)(channels_last(x), relu);
      return relu ? y : activation.plain(y);
    }
    using Signature = at::Tensor(const at::Tensor &, const at::Tensor &, const std::optional<at::Tensor> &, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view, Scalars, std::optional<std::string_view>);
    static const auto op = find<Signature>("mkldnn::_convolution_pointwise");
    const at::Tensor lying = channels_last(x);
    return with_activation(activation, [&](const Activation &a) { return op.call(lying, packed, bias, padding, stride, dilation, groups, a.name, Scalars(), a.algorithm); });
  }
};

// Layers of an LSTM in one direction, with constant weights.
struct Lstm {
  std::vector<at::Tensor> weights; // as at::lstm takes them: weight_ih, weight_hh and, where there are biases, bias_ih, bias_hh
  bool has_biases, batch_first;
  int64_t count, inputs, hidden;
  std::vector<std::optional<at::Tensor>> biases; // both of a layer in one, in the kernel's order
  std::vector<at::Tensor> shares, packed;        // of weight_ih, in that order, too
  std::vector<LstmLayer> layers;

  explicit Lstm(const Node *node) : weights(node->ts(WEIGHT)), has_biases(node->i(BIAS)), batch_first(node->i(BATCH_FIRST)) {
    const size_t each = has_biases ? 4 : 2;
    for (size_t i = 0; i < weights.size(); i += each) {
      shares.push_back(LstmLayer::in_groups(weights[i]));
      packed.push_back(packed_for_linear(shares.back()));
      layers.emplace_back(weights[i + 1]);
      biases.push_back(has_biases ? std::optional<at::Tensor>(LstmLayer::in_groups(weights[i + 2] + weights[i + 3])) : std::nullopt);
    }
    count = static_cast<int64_t>(layers.size()), inputs = weights[0].size(1), hidden = weights[1].size(1);
  }

  bool fits(const at::Tensor &x, const std::vector<at::Tensor> &state) const {
    if (!is_plain_floats(x) || x.dim() != 3 || x.size(2) != inputs || state.size() != 2 || x.size(batch_first ? 0 : 1) > LstmLayer::most_rows())
      return false;
    const std::vector<int64_t> sizes{count, x.size(batch_first ? 0 : 1), hidden};
    return std::all_of(state.begin(), state.end(), [&](const at::Tensor &s) { return is_plain_floats(s) && s.sizes() == at::IntArrayRef(sizes); });
  }

  std::tuple<at::Tensor, at::Tensor, at::Tensor> operator()(const at::Tensor &x, const std::vector<at::Tensor> &state) const {
    if (!fits(x, state))
      return at::lstm(x, state, weights, has_biases, count, 0.0, false, false, batch_first);
    at::Tensor h = state[0].clone(at::MemoryFormat::Contiguous), c = state[1].clone(at::MemoryFormat::Contiguous);
    at::Tensor values = batch_first ? x : x.transpose(0, 1);
    for (int64_t i = 0; i < count; ++i) {
      at::Tensor h_of_layer = h[i], c_of_layer = c[i];
      const auto gates = linear(values.contiguous(), packed[i], shares[i], biases[i], ACTIVATIONS[NO_ACTIVATION]);
      values = layers[i](gates, h_of_layer, c_of_layer);
    }
    return {batch_first ? values : values.transpose(0, 1).contiguous(), h, c}; // as libtorch gives it: `view` must work
  }
};

template <class Kind> torch::jit::Operation prepared(const Node *node) {
  return [layer = Kind(node)](Stack &stack) { push(stack, layer(pop(stack).toTensor())); };
}

torch::jit::Operation prepared_lstm(const Node *node) {
  return [layer = Lstm(node)](Stack &stack) {
    const auto state = pop(stack).toTensorVector();
    auto [values, h, c] = layer(pop(stack).toTensor(), state);
    push(stack, std::move(values), std::move(h), std::move(c));
  };
}

const torch::jit::RegisterOperators operators({
    torch::jit::Operator(LINEAR, prepared<Linear>, c10::AliasAnalysisKind::PURE_FUNCTION),
    torch::jit::Operator(CONVOLUTION, prepared<Convolution>, c10::AliasAnalysisKind::PURE_FUNCTION),
    torch::jit::Operator(CHAIN, prepared<Chain>, c10::AliasAnalysisKind::PURE_FUNCTION),
    torch::jit::Operator(LSTM, prepared_lstm, c10::AliasAnalysisKind::PURE_FUNCTION),
});

template <class Visit> void for_each_node(torch::jit::Block *block, Visit &&visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node *node = *it++; // the visit may destroy it
    for (auto *inner : node->blocks())
      for_each_node(inner, visit);
    visit(node);
  }
}

// Random only where it drops something out, which `eval()` and constants have ruled out.
bool drops_nothing(Node *node) {
  const auto *schema = node->maybeSchema();
  if (!schema)
    return false;
  const auto is = [&](const char *name, const c10::IValue &wanted) {
    const auto at = schema->argumentIndexWithName(name);
    const auto value = at ? toIValue(node->input(*at)) : std::nullopt;
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
  const auto found = toIValue(value);
  if (!found || !found->isTensor())
    return std::nullopt;
  const at::Tensor w = found->toTensor();
  const bool usable = w.defined() && is_plain_floats(w) && w.dim() == dims;
  return usable ? std::optional<at::Tensor>(w.detach()) : std::nullopt;
}

bool is_bias(Value *value, int64_t size) {
  const auto found = toIValue(value);
  if (!found)
    return false;
  return found->isNone() || (found->isTensor() && is_plain_floats(found->toTensor()) && found->toTensor().dim() == 1 && found->toTensor().size(0) == size);
}

std::optional<std::vector<int64_t>> pair(Value *value) {
  const auto found = toIValue(value);
  if (!found || !found->isIntList())
    return std::nullopt;
  auto list = found->toIntVector();
  if (list.size() == 1)
    list.push_back(list[0]);
  return list.size() == 2 ? std::optional<std::vector<int64_t>>(list) : std::nullopt;
}

// Puts a layer in the place of `node`, and of the activation behind it where nothing else uses what is between.
Node *replace(Graph &graph, Node *node, Symbol kind, const at::Tensor &packed, const at::Tensor &weight) {
  const auto &uses = node->output()->uses();
  const bool alone = uses.size() == 1 && uses[0].user->owningBlock() == node->owningBlock();
  const size_t activation = alone ? activation_of(uses[0].user) : NO_ACTIVATION;
  Node *last = activation == NO_ACTIVATION ? node : uses[0].user;
  Node *layer = graph.create(kind, {node->input(0)})->insertBefore(node);
  layer->t_(PACKED, packed)->t_(WEIGHT, weight)->i_(ACTIVATION, static_cast<int64_t>(activation));
  if (const auto bias = toIValue(node->input(2)); bias && bias->isTensor())
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
  Node *layer = replace(graph, node, LINEAR, *weight, *weight);
  if (!Linear::is_direct(*weight, ACTIVATIONS[layer->i(ACTIVATION)]))
    layer->t_(PACKED, packed_for_linear(*weight));
  return true;
}

bool pack_convolution(Graph &graph, Node *node) {
  const bool raw = std::string(node->kind().toQualString()) == "aten::_convolution";
  const auto weight = weight_of(node->input(1), 4);
  if (!weight || !is_bias(node->input(2), weight->size(0)))
    return false;
  const auto stride = pair(node->input(3)), padding = pair(node->input(4)), dilation = pair(node->input(5));
  if (raw) {
    const auto transposed = toIValue(node->input(6));
    if (!transposed || transposed->toBool())
      return false;
  }
  const auto groups = toIValue(node->input(raw ? 8 : 6));
  if (!stride || !padding || !dilation || !groups || groups->toInt() < 1 || weight->size(0) % groups->toInt() != 0)
    return false;
  for (int64_t d = 0; d < 2; ++d)
    if ((*stride)[d] < 1 || (*padding)[d] < 0 || (*dilation)[d] < 1)
      return false;
  static const auto reorder = find<at::Tensor(const at::Tensor &, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, at::OptionalIntArrayRef)>("mkldnn::_reorder_convolution_weight");
  const bool direct = Convolution::is_direct(*weight, *dilation, groups->toInt());
  Node *layer = replace(graph, node, CONVOLUTION, direct ? *weight : reorder.call(*weight, *padding, *stride, *dilation, groups->toInt(), std::nullopt), *weight);
  layer->is_(STRIDE, *stride)->is_(PADDING, *padding)->is_(DILATION, *dilation)->i_(GROUPS, groups->toInt());
  return true;
}

// The weights of an LSTM that has nothing but layers in one direction.
std::optional<std::vector<at::Tensor>> weights_of_lstm(Node *node, bool has_biases, int64_t count) {
  std::vector<at::Tensor> weights;
  if (const auto list = toIValue(node->input(2)); list && list->isTensorList())
    weights = list->toTensorVector();
  else if (node->input(2)->node()->kind() == c10::prim::ListConstruct)
    for (Value *value : node->input(2)->node()->inputs()) {
      const auto found = toIValue(value);
      if (!found || !found->isTensor())
        return std::nullopt;
      weights.push_back(found->toTensor());
    }
  constexpr int64_t LARGEST = 1024; // what was measured: half of libtorch's time at 8 rows
  const int64_t each = has_biases ? 4 : 2;
  if (count < 1 || static_cast<int64_t>(weights.size()) != each * count)
    return std::nullopt;
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool is_bias = i % each >= 2;
    at::Tensor &w = weights[i];
    if (!w.defined() || !is_plain_floats(w) || w.dim() != (is_bias ? 1 : 2))
      return std::nullopt;
    const int64_t hidden = weights[1].dim() == 2 ? weights[1].size(1) : -1;
    const bool is_recurrent = i % each == 1, is_first = i == 0;
    if (hidden > LARGEST || w.size(0) != 4 * hidden || (is_recurrent && w.size(1) != hidden) || (!is_bias && !is_recurrent && !is_first && w.size(1) != hidden))
      return std::nullopt;
    w = w.detach().contiguous();
  }
  return weights;
}

bool pack_lstm(Graph &graph, Node *node) {
  // Of at::lstm's two forms the one without packed sequences.
  if (node->inputs().size() != 9 || node->input(1)->type()->kind() != c10::TypeKind::ListType)
    return false;
  const auto has_biases = toIValue(node->input(3)), count = toIValue(node->input(4)), train = toIValue(node->input(6)), both = toIValue(node->input(7)), batch_first = toIValue(node->input(8));
  if (LstmLayer::most_rows() == 0 || !has_biases || !count || !train || train->toBool() || !both || both->toBool() || !batch_first)
    return false;
  auto weights = weights_of_lstm(node, has_biases->toBool(), count->toInt());
  if (!weights)
    return false;
  Node *layer = graph.create(LSTM, {node->input(0), node->input(1)}, node->outputs().size())->insertBefore(node);
  layer->ts_(WEIGHT, std::move(*weights))->i_(BIAS, has_biases->toBool())->i_(BATCH_FIRST, batch_first->toBool());
  for (size_t i = 0; i < node->outputs().size(); ++i) {
    layer->output(i)->setType(node->output(i)->type());
    node->output(i)->replaceAllUsesWith(layer->output(i));
  }
  node->destroy();
  return true;
}

// Whether the kernel for small layers can have another one behind `node`.
bool can_go_on(Node *node) {
  const auto activation = static_cast<size_t>(node->i(ACTIVATION));
  return (activation == NO_ACTIVATION || activation == RELU) && SmallLayers::takes(node->t(WEIGHT));
}

// Puts one node in the place of small linear layers behind one another, where nothing else uses what is between.
void join_small_layers(Graph &graph) {
  std::vector<std::vector<Node *>> chains;
  std::set<Node *> joined;
  for_each_node(graph.block(), [&](Node *node) {
    if (node->kind() != LINEAR || !joined.insert(node).second || !can_go_on(node))
      return;
    std::vector<Node *> chain{node};
    while (can_go_on(chain.back())) {
      const auto &uses = chain.back()->output()->uses();
      Node *next = uses.size() == 1 ? uses[0].user : nullptr;
      if (!next || next->kind() != LINEAR || next->owningBlock() != node->owningBlock() || !SmallLayers::takes(next->t(WEIGHT)))
        break;
      if (next->t(WEIGHT).size(1) != chain.back()->t(WEIGHT).size(0))
        break; // which is an error in each call; the layer itself says so
      chain.push_back(next);
      joined.insert(next);
    }
    if (chain.size() > 1)
      chains.push_back(std::move(chain));
  });
  for (const auto &chain : chains) {
    auto layers = std::make_shared<Graph>();
    Value *value = layers->addInput();
    for (Node *node : chain)
      value = layers->insertNode(layers->createClone(node, [&](Value *) { return value; }))->output();
    layers->registerOutput(value);
    Node *whole = graph.create(CHAIN, {chain.front()->input()})->insertBefore(chain.back());
    whole->g_(c10::attr::Subgraph, layers)->output()->setType(chain.back()->output()->type());
    chain.back()->output()->replaceAllUsesWith(whole->output());
    for (auto node = chain.rbegin(); node != chain.rend(); ++node)
      (*node)->destroy();
  }
}

// The one node of a graph that does nothing else than hand its input to it, and its output back.
Node *only_node(Graph &graph) {
  Node *only = nullptr;
  for (Node *node : graph.nodes()) {
    if (node->kind() == c10::prim::Constant)
      continue;
    if (only)
      return nullptr;
    only = node;
  }
  const bool is_chain = only && (only->kind() == LINEAR || only->kind() == CHAIN);
  const bool is_all = graph.inputs().size() == 2 && graph.outputs().size() == 1; // the first is self
  return is_chain && is_all && only->input() == graph.inputs()[1] && only->output() == graph.outputs()[0] ? only : nullptr;
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
    if (kind == "aten::linear" || kind == "aten::conv2d" || kind == "aten::_convolution" || kind == "aten::lstm")
      candidates.push_back(node);
  });
  size_t layers = 0, convolutions = 0;
  for (Node *node : candidates) {
    const std::string kind = node->kind().toQualString();
    const bool is_convolution = kind != "aten::linear" && kind != "aten::lstm";
    const bool is_packed = is_convolution ? pack_convolution(*graph, node) : kind == "aten::lstm" ? pack_lstm(*graph, node) : pack_linear(*graph, node);
    layers += is_packed;
    convolutions += is_packed && is_convolution;
  }
  if (layers == 0)
    return nullptr;
  if (convolutions > 0)
    allow_any_layout(graph);
  torch::jit::EliminateDeadCode(graph);
  join_small_layers(*graph);
  std::unique_ptr<Fast> fast(new Fast(std::move(frozen)));
  if (const Node *only = only_node(*graph))
    fast->whole = [chain = Chain(only)](const at::Tensor &x) { return chain(x); };
  return fast;
}

Fast::Fast(torch::jit::Module frozen)
    : module(std::move(frozen)), executor(module.get_method("forward").graph(), "forward", torch::jit::ExecutorExecutionMode::SIMPLE) {}

c10::IValue Fast::run(const torch::jit::Stack &arguments) {
  if (whole)
    return whole(arguments[0].toTensor());
  torch::jit::Stack stack;
  stack.reserve(arguments.size() + 1);
  stack.emplace_back(module._ivalue());
  stack.insert(stack.end(), arguments.begin(), arguments.end());
  executor.run(stack);
  return std::move(stack.back());
}

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
