// Follows what a module owns through the graphs of its methods, to see whether anything writes to it. torch's own AliasDb
// puts all tensors from attributes, inputs and lists into one set, and takes batch normalisation for a write also in
// evaluation: by it nearly every network would have state. Here a branch that a constant attribute (`training`) closes is
// not looked at, and what is not known counts as the module's own.
#include "state.h"
#include <ATen/core/class_type.h>
#include <optional>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <unordered_map>
#include <unordered_set>

namespace rust_host {
namespace {

using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Module;
using torch::jit::Node;
using torch::jit::Value;

// What a value may be.
using Bits = uint8_t;
constexpr Bits OWN = 1;        // the module, a part of it, or memory of one of its tensors
constexpr Bits HOLDS_OWN = 2;  // a container made in this call that may hold such
constexpr Bits CODE = 4;       // a constant of the code
constexpr Bits HOLDS_CODE = 8; // a container made in this call that may hold such

Bits held(Bits b) { return ((b & (OWN | HOLDS_OWN)) ? HOLDS_OWN : 0) | ((b & (CODE | HOLDS_CODE)) ? HOLDS_CODE : 0); }
Bits taken_out(Bits b) { return ((b & (OWN | HOLDS_OWN)) ? OWN : 0) | ((b & (CODE | HOLDS_CODE)) ? CODE : 0); }

constexpr int DEEPEST = 32;

bool is_container(const c10::TypePtr &type) {
  using K = c10::TypeKind;
  const auto kind = type->kind();
  if (kind == K::OptionalType)
    return is_container(type->expectRef<c10::OptionalType>().getElementType());
  return kind == K::ListType || kind == K::DictType || kind == K::TupleType || kind == K::ClassType || kind == K::AnyType ||
         kind == K::FutureType || kind == K::AwaitType || kind == K::UnionType || kind == K::InterfaceType;
}

// Whether a value of that type can share anything with another.
bool can_share(const c10::TypePtr &type) {
  if (type->kind() == c10::TypeKind::OptionalType)
    return can_share(type->expectRef<c10::OptionalType>().getElementType());
  return type->kind() == c10::TypeKind::TensorType || is_container(type);
}

struct Finder {
  State found;
  std::unordered_set<std::string> assigned; // names of all attributes that any code of the file assigns

  explicit Finder(const Module &module) {
    for (auto *function : module._ivalue()->compilation_unit()->get_functions())
      if (auto *graph = torch::jit::tryToGraphFunction(*function))
        collect_assigned(graph->graph()->block());
  }

  // Looks at a function whose first argument is the module.
  void look_at(torch::jit::Function &function, const Module &module) {
    auto *graph = torch::jit::tryToGraphFunction(function);
    if (!graph)
      return;
    auto copy = inlined(*graph->graph());
    if (copy->inputs().empty())
      return;
    objects[copy->inputs()[0]] = module._ivalue();
    add(copy->inputs()[0], OWN);
    settle(copy->block());
  }

private:
  std::unordered_map<const Value *, Bits> bits;
  std::unordered_map<const Value *, c10::IValue> objects;           // which object of the module a value is, where that is known
  std::unordered_map<const Node *, std::shared_ptr<Graph>> called;  // graphs of calls that cannot be written into their caller
  std::vector<std::shared_ptr<Graph>> kept_alive;
  int depth = 0;
  bool changed = false;

  std::shared_ptr<Graph> inlined(Graph &graph) {
    auto copy = graph.copy();
    torch::jit::Inline(*copy);
    kept_alive.push_back(copy);
    return copy;
  }

  void collect_assigned(Block *block) {
    for (auto *node : block->nodes()) {
      if (node->kind() == c10::prim::SetAttr)
        assigned.insert(node->s(c10::attr::name));
      for (auto *inner : node->blocks())
        collect_assigned(inner);
    }
  }

  Bits of(const Value *value) const {
    const auto found_at = bits.find(value);
    return found_at == bits.end() ? 0 : found_at->second;
  }

  void add(const Value *value, Bits more) {
    if (!more || !can_share(value->type()))
      return;
    Bits &have = bits[value];
    changed |= (have | more) != have;
    have |= more;
  }

  // A container got something: whatever the container is also known as has it too.
  void put_into(Value *container, Bits more) {
    const Bits before = of(container);
    add(container, more);
    if (of(container) == before)
      return;
    auto *node = container->node();
    const auto kind = node->kind();
    if (kind == c10::prim::If) {
      for (auto *block : node->blocks())
        put_into(block->outputs()[container->offset()], more);
    } else if (kind == c10::prim::Loop) {
      put_into(node->inputs()[container->offset() + 2], more);
      put_into(node->blocks()[0]->outputs()[container->offset() + 1], more);
    } else if (kind == c10::prim::Param && node->owningBlock()->owningNode() &&
               node->owningBlock()->owningNode()->kind() == c10::prim::Loop && container->offset() > 0) {
      put_into(node->owningBlock()->owningNode()->inputs()[container->offset() + 1], more);
    } else if (kind == c10::prim::unchecked_cast || kind == c10::prim::unchecked_unwrap_optional || kind == c10::aten::_unwrap_optional) {
      put_into(node->inputs()[0], more);
    }
  }

  // The object of the module that a value is, if that is the same in every call.
  std::optional<c10::IValue> object(const Value *value, int level = 0) {
    const auto known = objects.find(value);
    if (known != objects.end())
      return known->second;
    const auto *node = value->node();
    if (level > DEEPEST)
      return std::nullopt;
    if (node->kind() == c10::prim::unchecked_cast)
      return object(node->inputs()[0], level + 1);
    if (node->kind() != c10::prim::GetAttr)
      return std::nullopt;
    const auto owner = object(node->inputs()[0], level + 1);
    const std::string &name = node->s(c10::attr::name);
    if (!owner || !owner->isObject() || assigned.count(name))
      return std::nullopt;
    const auto object = owner->toObject();
    const auto slot = object->type()->findAttributeSlot(name);
    if (!slot)
      return std::nullopt;
    return objects[value] = object->getSlot(*slot);
  }

  // A condition that has the same value in every call.
  std::optional<bool> constant(const Value *value, int level = 0) {
    const auto *node = value->node();
    if (level > DEEPEST || value->type()->kind() != c10::TypeKind::BoolType)
      return std::nullopt;
    const auto kind = node->kind();
    if (kind == c10::prim::Constant)
      return node->hasAttribute(c10::attr::value) ? std::optional<bool>(node->i(c10::attr::value) != 0) : std::nullopt;
    if (kind == c10::prim::GetAttr) {
      const auto it = object(value);
      return it && it->isBool() ? std::optional<bool>(it->toBool()) : std::nullopt;
    }
    if (kind == c10::aten::__not__) {
      const auto inner = constant(node->inputs()[0], level + 1);
      return inner ? std::optional<bool>(!*inner) : std::nullopt;
    }
    if (kind == c10::prim::If) {
      const auto which = constant(node->inputs()[0], level + 1);
      if (which)
        return constant(node->blocks()[*which ? 0 : 1]->outputs()[value->offset()], level + 1);
      const auto a = constant(node->blocks()[0]->outputs()[value->offset()], level + 1);
      const auto b = constant(node->blocks()[1]->outputs()[value->offset()], level + 1);
      return a && b && *a == *b ? a : std::nullopt;
    }
    return std::nullopt;
  }

  void write_to(const Value *value) {
    const Bits b = of(value);
    if (!(b & (OWN | CODE)))
      return;
    found.kept = true;
    found.in_memory |= (b & CODE) != 0 || !is_container(value->type());
  }

  void unknown() {
    found.kept = true;
    found.in_memory = true;
  }

  // Until nothing new is found: what a loop's end says holds for its beginning.
  void settle(Block *block) {
    do {
      changed = false;
      visit(block);
    } while (changed);
  }

  void visit(Block *block) {
    for (auto *node : block->nodes())
      visit(node);
  }

  void visit(Node *node) {
    switch (node->kind()) {
    case c10::prim::Constant:
      return add(node->output(), CODE);
    case c10::prim::CreateObject:
      return;
    case c10::prim::SetAttr:
      if (of(node->inputs()[0]) & OWN)
        found.kept = true;
      return put_into(node->inputs()[0], held(of(node->inputs()[1])));
    case c10::prim::If: {
      const auto which = constant(node->inputs()[0]);
      for (size_t b = 0; b < 2; ++b) {
        if (which && b != (*which ? 0 : 1))
          continue;
        auto *inner = node->blocks()[b];
        visit(inner);
        for (size_t i = 0; i < node->outputs().size(); ++i)
          add(node->outputs()[i], of(inner->outputs()[i]));
      }
      return;
    }
    case c10::prim::Loop: {
      auto *body = node->blocks()[0];
      for (size_t i = 0; i < node->outputs().size(); ++i) {
        const Bits both = of(node->inputs()[i + 2]) | of(body->outputs()[i + 1]);
        add(body->inputs()[i + 1], both);
        add(node->outputs()[i], both);
      }
      visit(body);
      for (size_t i = 0; i < node->outputs().size(); ++i) {
        add(body->inputs()[i + 1], of(body->outputs()[i + 1]));
        add(node->outputs()[i], of(body->outputs()[i + 1]));
      }
      return;
    }
    case c10::prim::GetAttr:
    case c10::prim::TupleUnpack:
    case c10::prim::TupleIndex:
    case c10::prim::TupleSlice:
    case c10::prim::ListUnpack:
    case c10::aten::wait:
      return add_to_outputs(node, taken_out(of(node->inputs()[0])));
    case c10::prim::ListConstruct:
    case c10::prim::DictConstruct:
    case c10::prim::TupleConstruct:
      return add_to_outputs(node, held(of_all(node)));
    case c10::prim::Enter:
    case c10::prim::Exit:
      return method(node, node->kind() == c10::prim::Enter ? "__enter__" : "__exit__");
    case c10::prim::CallMethod:
      return method(node, node->s(c10::attr::name));
    case c10::prim::CallFunction: {
      const auto type = node->inputs()[0]->type()->cast<c10::FunctionType>();
      return type ? call(node, *type->function(), std::nullopt, 1) : unknown_call(node);
    }
    default:
      return node->hasAttribute(c10::attr::Subgraph) ? subgraph(node) : operation(node);
    }
  }

  Bits of_all(const Node *node) const {
    Bits all = 0;
    for (const auto *input : node->inputs())
      all |= of(input);
    return all;
  }

  void add_to_outputs(Node *node, Bits more) {
    for (auto *output : node->outputs())
      add(output, more);
  }

  void unknown_call(Node *node) {
    const Bits all = of_all(node);
    if (all & (OWN | HOLDS_OWN))
      unknown();
    add_to_outputs(node, all | taken_out(all));
  }

  // A method of an interface or of a context manager, which stays a call.
  void method(Node *node, const std::string &name) {
    const auto self = object(node->inputs()[0]);
    auto type = self && self->isObject() ? self->toObject()->type() : node->inputs()[0]->type()->cast<c10::ClassType>();
    auto *function = type ? type->findMethod(name) : nullptr;
    return function ? call(node, *function, self, 0) : unknown_call(node);
  }

  void call(Node *node, torch::jit::Function &function, const std::optional<c10::IValue> &self, size_t first) {
    auto *graph = torch::jit::tryToGraphFunction(function);
    if (!graph || depth >= DEEPEST)
      return unknown_call(node);
    auto &copy = called[node];
    if (!copy) {
      copy = inlined(*graph->graph());
      if (self && !copy->inputs().empty())
        objects[copy->inputs()[0]] = *self;
    }
    into(node, *copy, first);
    for (size_t i = 0; i < node->outputs().size() && i < copy->outputs().size(); ++i)
      add(node->outputs()[i], of(copy->outputs()[i]));
  }

  // A fork, whose result is waited for.
  void subgraph(Node *node) {
    auto &copy = called[node];
    if (!copy)
      copy = inlined(*node->g(c10::attr::Subgraph));
    into(node, *copy, 0);
    Bits all = 0;
    for (const auto *output : copy->outputs())
      all |= of(output);
    add_to_outputs(node, all | held(all));
  }

  void into(Node *node, Graph &graph, size_t first) {
    for (size_t i = first; i < node->inputs().size() && i - first < graph.inputs().size(); ++i) {
      add(graph.inputs()[i - first], of(node->inputs()[i]));
      if (const auto known = object(node->inputs()[i]))
        objects[graph.inputs()[i - first]] = *known;
    }
    ++depth;
    visit(graph.block());
    --depth;
  }

  void operation(Node *node) {
    const auto kind = node->kind();
    if (kind == c10::aten::batch_norm || kind == c10::aten::instance_norm) {
      // torch's schemas do not say that these write to the running mean and variance, which they do in training.
      if (constant(node->inputs()[5]) != std::optional<bool>(false)) {
        write_to(node->inputs()[3]);
        write_to(node->inputs()[4]);
      }
      return;
    }
    const Bits all = of_all(node);
    if (!all)
      return;
    const auto *schema = node->maybeSchema();
    if (!schema)
      return add_to_outputs(node, all | taken_out(all));
    const auto &arguments = schema->arguments();
    Bits shared = 0;
    for (size_t i = 0; i < arguments.size() && i < node->inputs().size(); ++i) {
      const auto *alias = arguments[i].alias_info();
      auto *input = node->inputs()[i];
      if (!alias)
        continue;
      shared |= of(input);
      if (!alias->isWrite())
        continue;
      write_to(input);
      if (is_container(input->type()))
        put_into(input, held(all));
    }
    const auto &returns = schema->returns();
    for (size_t i = 0; i < node->outputs().size(); ++i) {
      auto *output = node->outputs()[i];
      const auto *alias = i < returns.size() ? returns[i].alias_info() : nullptr;
      // What a container gives out, or a new container with the old one's items.
      const bool wild = alias && (alias->isWildcardAfter() || alias->isWildcardBefore());
      if (wild || (alias && is_container(node->inputs()[0]->type())))
        add(output, taken_out(all));
      if (alias && !wild)
        add(output, shared);
      if (is_container(output->type()))
        add(output, held(all));
    }
  }
};

} // namespace

State find_state(const Module &module) {
  Finder finder(module);
  for (const auto &method : module.get_methods())
    if (method.name() != "__setstate__" && method.name() != "__getstate__")
      finder.look_at(method.function(), module);
  for (auto *hook : module.type()->getForwardPreHooks())
    finder.look_at(*hook, module);
  for (auto *hook : module.type()->getForwardHooks())
    finder.look_at(*hook, module);
  return finder.found;
}

Module copy_of(const Module &module) {
  c10::InferenceMode no_inference(false);
  c10::IValue::HashIdentityIValueMap memo;
  const c10::IValue whole(module._ivalue());
  whole.visit([&](const c10::IValue &part) {
    // Tensors, and packed weights of quantised layers, which nothing changes.
    if (part.isTensor() || (part.isObject() && part.toObjectRef().type()->name()->qualifiedName().rfind("__torch__.torch.classes.", 0) == 0))
      memo[part] = part;
    return false;
  });
  return Module(whole.deepcopy(memo).toObject());
}

} // namespace rust_host
