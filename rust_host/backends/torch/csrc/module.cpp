// A loaded TorchScript module: load, signatures, run.
#include "fast.h"
#include "first_calls.h"
#include "guard.h"
#include "state.h"
#include "stream.h"
#include "value.h"
#include <atomic>
#include <caffe2/serialize/read_adapter_interface.h>
#include <cstring>
#include <mutex>
#include <set>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/jit_exception.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/torch.h>

using torch::jit::Module;

namespace {

// libtorch reads the bytes that were scanned, not the path again.
struct Bytes : caffe2::serialize::ReadAdapterInterface {
  Bytes(const char *data, size_t length) : data(data), length(length) {}
  size_t size() const override { return length; }
  size_t read(uint64_t pos, void *buf, size_t n, const char *) const override {
    if (pos >= length)
      return 0;
    n = std::min<size_t>(n, length - pos);
    std::memcpy(buf, data + pos, n);
    return n;
  }

private:
  const char *data;
  size_t length;
};

struct Method {
  torch::jit::Method method;
  std::vector<bool> writes; // whether the graph may write to this argument
  bool needs_gradients;
  bool scoped; // has a `with`: autocast is one, and one of libtorch's optimisations carries it out
  bool hooked; // forward of a module with hooks, which Method would skip
};

bool is_hidden(const std::string &name) { return name == "__setstate__" || name == "__getstate__"; }

template <class Visit> void for_each_node(torch::jit::Block *block, Visit &&visit) {
  for (auto *node : block->nodes()) {
    visit(node);
    for (auto *inner : node->blocks())
      for_each_node(inner, visit);
  }
}

Method describe(const Module &module, const torch::jit::Method &method) {
  Method m{method, {}, false, false, method.name() == "forward" && !(module.type()->getForwardHooks().empty() && module.type()->getForwardPreHooks().empty())};
  auto graph = torch::jit::toGraphFunction(method.function()).graph()->copy();
  torch::jit::Inline(*graph);
  for_each_node(graph->block(), [&](torch::jit::Node *node) {
    const std::string kind = node->kind().toQualString();
    m.scoped |= kind == "prim::Enter";
    m.needs_gradients |= kind == "aten::grad" || kind == "aten::backward" || kind == "aten::requires_grad_";
  });
  torch::jit::AliasDb aliases(graph);
  const auto inputs = graph->inputs();
  for (size_t i = 1; i < inputs.size(); ++i) // 0 is self
    m.writes.push_back(m.hooked || aliases.hasWriters(inputs[i]));
  return m;
}

// One a line, of every function in the file: code that no method calls could still be called by a later one.
std::string operators_of(const Module &module) {
  std::set<std::string> names;
  for (auto *function : module._ivalue()->compilation_unit()->get_functions())
    if (auto *graph = torch::jit::tryToGraphFunction(*function))
      for_each_node(graph->graph()->block(), [&](torch::jit::Node *node) { names.insert(node->kind().toQualString()); });
  std::string all;
  for (const auto &name : names)
    all += name + "\n";
  return all;
}

// Work that goes on on other threads, which begin on the default stream, and code that chooses streams itself.
bool queues_elsewhere(const std::string &operators) {
  for (const char *kind : {"prim::fork\n", "prim::awaitable\n", "prim::rpc_", "cuda::"})
    if (operators.find(kind) != std::string::npos)
      return true;
  return false;
}

char *copy_text(const std::string &text) {
  auto *out = static_cast<char *>(std::malloc(text.size() + 1));
  if (out)
    std::memcpy(out, text.c_str(), text.size() + 1);
  return out;
}

// Runs `body` and turns whatever it throws into a status and a text.
template <class Body> int32_t guarded(char **error, int32_t otherwise, Body &&body) noexcept {
  std::string text;
  int32_t status = otherwise;
  try {
    body();
    return RH_OK;
  } catch (const rust_host::InvalidInput &e) {
    status = RH_INVALID_INPUT;
    text = e.what();
  } catch (const rust_host::Interrupted &e) {
    status = RH_INTERRUPTED;
    text = e.what();
  } catch (const c10::OutOfMemoryError &e) {
    status = RH_NO_MEMORY;
    text = e.what_without_backtrace();
  } catch (const c10::Error &e) {
    text = e.what_without_backtrace();
  } catch (const std::bad_alloc &) {
    status = RH_NO_MEMORY;
    text = "not enough memory";
  } catch (const std::exception &e) {
    text = e.what();
  } catch (...) {
    text = "an exception that is none of C++'s own";
  }
  // The interpreter wraps what an operator throws into an exception of its own, with a trace around the text.
  if (text.find(rust_host::Interrupted().what()) != std::string::npos)
    status = RH_INTERRUPTED;
  if (error)
    *error = copy_text(text);
  return status;
}

} // namespace

struct rh_module {
  Module module;
  std::vector<Method> methods;
  std::string operators;
  at::Device device = at::kCPU;
  // Where it keeps state on a GPU: its stream in every call, because memory that a call gives back is that stream's again at once.
  rust_host::TakenStream stream;
  rust_host::State state;
  std::optional<Module> fresh; // as it was loaded, where its methods change it and copies can share its tensors
  std::atomic<bool> was_called{false};
  std::shared_ptr<rust_host::FirstCalls> first_calls; // on a GPU; one for all sessions, as the graphs are
  // The fast form of `forward`, where it was asked for and there is one; used once it has agreed with the plain one.
  std::unique_ptr<rust_host::Fast> fast;
  std::atomic<int32_t> speed{RH_PLAIN};
  rust_host::Tolerance tolerance;
  std::mutex checking;
};

struct rh_result {
  rust_host::Result result;
};

namespace {

c10::IValue run_plain(rh_module &module, const Method &m, torch::jit::Stack arguments) {
  return m.hooked ? module.module(std::move(arguments)) : m.method(std::move(arguments));
}

// The first call: both forms, and the fast one from now on if it agrees. The fast one goes first: it writes to no input, which
// the plain one may.
c10::IValue compare(rh_module &module, const Method &m, const torch::jit::Stack &arguments) {
  std::optional<c10::IValue> fast;
  try {
    fast = module.fast->run(arguments);
  } catch (const std::exception &) {
    // What it had to say interests nobody: the plain form answers.
  }
  c10::IValue plain = run_plain(module, m, arguments); // where it throws, nothing is said of the two forms, and the next call compares
  if (fast && rust_host::agrees(plain, *fast, module.tolerance)) {
    module.speed.store(RH_FAST);
    return *std::move(fast);
  }
  module.speed.store(RH_DROPPED);
  return plain;
}

c10::IValue call(rh_module &module, size_t index, const torch::jit::Stack &arguments) {
  const Method &m = module.methods[index];
  const int32_t speed = index == 0 ? module.speed.load() : RH_PLAIN;
  if (speed == RH_FAST) {
    try {
      return module.fast->run(arguments);
    } catch (const std::exception &) {
      // The plain form gives the answer, or the error in the words of the model's own code.
    }
  } else if (speed == RH_UNCHECKED) {
    const std::unique_lock lock(module.checking, std::try_to_lock);
    if (lock && module.speed.load() == RH_UNCHECKED)
      return compare(module, m, arguments);
  }
  return run_plain(module, m, arguments);
}

} // namespace

extern "C" {

int32_t rh_load(const char *data, size_t size, int32_t cuda_index, rh_module **out, char **error) {
  return guarded(error, RH_INVALID_MODEL, [&] {
    auto loaded = std::make_unique<rh_module>();
    if (cuda_index >= 0)
      loaded->device = at::Device(at::kCUDA, static_cast<at::DeviceIndex>(cuda_index));
    // To the processor first: a file that was saved on a GPU would ask for a driver otherwise.
    loaded->module = torch::jit::load(std::make_shared<Bytes>(data, size), at::Device(at::kCPU));
    loaded->module.eval();
    if (!loaded->device.is_cpu()) {
      at::globalContext().lazyInitDevice(loaded->device.type());
      loaded->stream = rust_host::take_stream(loaded->device, queues_elsewhere(operators_of(loaded->module)));
      rust_host::OnStream on_stream(*loaded->stream);
      loaded->module.to(loaded->device);
      on_stream.wait();
    }
    rust_host::refuse_hostile(*loaded->module._ivalue()->compilation_unit());
    for (const auto &method : loaded->module.get_methods())
      if (!is_hidden(method.name()))
        loaded->methods.push_back(describe(loaded->module, method));
    if (!loaded->device.is_cpu())
      loaded->first_calls = std::make_shared<rust_host::FirstCalls>(loaded->methods.size());
    std::stable_partition(loaded->methods.begin(), loaded->methods.end(), [](const Method &m) { return m.method.name() == "forward"; });
    loaded->state = rust_host::find_state(loaded->module);
    if (loaded->state.kept) {
      bool needs_gradients = false;
      for (const auto &m : loaded->methods)
        needs_gradients |= m.needs_gradients;
      for (auto &m : loaded->methods) {
        // What a call keeps must not be the caller's memory.
        m.writes.assign(m.writes.size(), true);
        // Nor a tensor of inference mode, where another method takes gradients of it.
        m.needs_gradients = needs_gradients;
      }
      if (!loaded->state.in_memory)
        loaded->fresh = rust_host::copy_of(loaded->module);
    }
    if (!loaded->state.kept)
      loaded->stream.reset();
    // After the graphs were described: the checks are ours, not the model's.
    loaded->operators = operators_of(loaded->module);
    for (auto *function : loaded->module._ivalue()->compilation_unit()->get_functions())
      if (auto *graph = torch::jit::tryToGraphFunction(*function))
        rust_host::guard(*graph->graph());
    // Describing wrote functions and submodules into their callers, and libtorch keeps such copies: without the checks.
    for (auto *function : loaded->module._ivalue()->compilation_unit()->get_functions())
      if (auto *graph = torch::jit::tryToGraphFunction(*function))
        graph->clear_optimized_graphs();
    *out = loaded.release();
  });
}

void rh_drop_module(rh_module *module) { delete module; }

int32_t rh_state_of(const rh_module *module) {
  return !module->state.kept ? RH_STATELESS : module->fresh ? RH_STATE_IN_ATTRIBUTES : RH_STATE_IN_MEMORY;
}

int32_t rh_optimise(rh_module *module, double rtol, double atol, double atol_of_largest, char **error) {
  return guarded(error, RH_FAILED, [&] {
    if (module->state.kept || !module->device.is_cpu() || module->methods.empty())
      return;
    const Method &m = module->methods[0];
    if (m.method.name() != "forward" || m.hooked || m.scoped || m.needs_gradients)
      return;
    try {
      module->fast = rust_host::Fast::of(module->module);
    } catch (const std::bad_alloc &) {
      throw;
    } catch (const std::exception &) {
      module->speed.store(RH_DROPPED);
      return;
    }
    module->tolerance = {rtol, atol, atol_of_largest};
    if (module->fast)
      module->speed.store(RH_UNCHECKED);
  });
}

int32_t rh_speed_of(const rh_module *module) { return module->speed.load(); }

int32_t rh_session(const rh_module *module, rh_module **out, char **error) {
  return guarded(error, RH_FAILED, [&] {
    auto session = std::make_unique<rh_module>();
    std::optional<rust_host::OnStream> on_stream;
    if (!module->device.is_cpu()) {
      session->stream = rust_host::take_stream(module->device, queues_elsewhere(module->operators));
      on_stream.emplace(*session->stream);
    }
    session->module = rust_host::copy_of(module->fresh.value());
    session->fresh = module->fresh;
    session->methods = module->methods;
    for (auto &m : session->methods)
      m.method = session->module.get_method(m.method.name());
    session->operators = module->operators;
    session->device = module->device;
    session->state = module->state;
    // The graphs are shared, and with them what earlier calls made faster.
    session->was_called = module->was_called.load();
    session->first_calls = module->first_calls;
    *out = session.release();
  });
}

int32_t rh_methods(const rh_module *module, char **text, char **error) {
  return guarded(error, RH_INVALID_MODEL, [&] {
    std::ostringstream out;
    for (const auto &m : module->methods) {
      const auto &schema = m.method.function().getSchema();
      out << m.method.name() << "(";
      for (size_t i = 1; i < schema.arguments().size(); ++i) {
        const auto &argument = schema.arguments()[i];
        out << (i > 1 ? ", " : "") << argument.name() << ": " << argument.type()->annotation_str();
        if (argument.default_value())
          out << "=" << *argument.default_value();
      }
      out << ") -> " << (schema.returns().empty() ? "None" : schema.returns()[0].type()->annotation_str()) << "\n";
    }
    *text = copy_text(out.str());
  });
}

int32_t rh_operators(const rh_module *module, char **text, char **error) {
  return guarded(error, RH_INVALID_MODEL, [&] { *text = copy_text(module->operators); });
}

int32_t rh_run(rh_module *module, size_t index, const rh_value *arguments, size_t count, rh_result **out, char **error) {
  return guarded(error, RH_FAILED, [&] {
    size_t next = 0;
    struct ReleaseRest {
      const rh_value *arguments;
      size_t count, &next;
      ~ReleaseRest() {
        for (size_t i = next; i < count; ++i)
          rust_host::release(arguments[i]);
      }
    } rest{arguments, count, next};
    Method &m = module->methods.at(index);
    // Gradients stay off but for a model that takes some itself (an interatomic potential).
    std::optional<c10::InferenceMode> inference;
    std::optional<at::AutoGradMode> gradients;
    if (m.needs_gradients)
      gradients.emplace(true);
    else
      inference.emplace();
    // The first call makes nothing faster for later ones: for a process that makes one call that is 20 ms against 1.
    std::optional<torch::jit::GraphOptimizerEnabledGuard> plain;
    if (!module->was_called.load(std::memory_order_relaxed) && !module->was_called.exchange(true) && !m.hooked && !m.scoped && !m.needs_gradients)
      plain.emplace(false);

    std::optional<rust_host::FirstCalls::Turn> turn;
    rust_host::TakenStream taken;
    std::optional<rust_host::OnStream> on_stream;
    if (!module->device.is_cpu()) {
      turn.emplace(*module->first_calls, index);
      if (!module->stream)
        taken = rust_host::take_stream(module->device, queues_elsewhere(module->operators));
      on_stream.emplace(module->stream ? *module->stream : *taken);
    }

    const auto &schema = m.method.function().getSchema();
    torch::jit::Stack stack;
    stack.reserve(count + 1);
    for (size_t i = 0; i < count; ++i) {
      const auto &argument = schema.arguments().at(i + 1);
      next = i + 1;
      stack.push_back(arguments[i].tag == RH_DEFAULT
                          ? argument.default_value().value()
                          : rust_host::to_ivalue(arguments[i], argument.type(), argument.name(), module->device, m.writes.at(i)));
    }
    // The inputs stay referenced until the results were looked at: that is how a result that is an input is recognised.
    const torch::jit::Stack inputs = std::move(stack);
    c10::IValue value = call(*module, index, inputs);
    auto result = std::make_unique<rh_result>();
    result->result.device = module->device;
    result->result.fill(result->result.root, std::move(value));
    if (on_stream) {
      on_stream->wait();
      result->result.finish();
      turn->succeeded();
    }
    *out = result.release();
  });
}

const rh_value *rh_result_value(const rh_result *result) { return &result->result.root; }

void rh_drop_result(rh_result *result) { delete result; }

void rh_free_text(char *text) { std::free(text); }
}
