// A stand-in for CUDA, where there is none: memory of the host, streams on which a copy happens only when somebody waits for it,
// an allocator that gives a stream's memory back to that stream and overwrites it. Operators run at once, on the processor; they
// see what the current stream was waited for. Runs the models of a folder on it and on the processor, as test_stand_in.py asks.
#include "first_calls.h"
#include "guard.h"
#include "shim.h"
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Copy.h>
#include <ATen/native/TensorIterator.h>
#include <atomic>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>
#include <torch/csrc/jit/passes/tensorexpr_fuser.h>
#include <torch/library.h>

namespace {

const c10::Device GPU(c10::kCUDA, 0);
constexpr int STREAMS = 33; // the first is the default one

struct Queue {
  std::recursive_mutex lock; // what is carried out may free memory, which queues
  std::deque<std::function<void()>> work;
  uint64_t queued = 0, done = 0;
} queues[STREAMS];
thread_local int current = 0;
std::atomic<int> next_stream{0}, copies_pending{0}, page_locked{0}, page_locked_made{0};
std::mutex used_lock;
std::set<int> used;

void queue(int stream, std::function<void()> work) {
  const std::lock_guard lock(queues[stream].lock);
  queues[stream].work.push_back(std::move(work));
  ++queues[stream].queued;
}

uint64_t queued(int stream) {
  const std::lock_guard lock(queues[stream].lock);
  return queues[stream].queued;
}

void wait(int stream, uint64_t until) {
  const std::lock_guard lock(queues[stream].lock);
  for (; queues[stream].done < until; ++queues[stream].done) {
    auto work = std::move(queues[stream].work.front());
    queues[stream].work.pop_front();
    work();
  }
}

struct Mark {
  int stream;
  uint64_t until;
};

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = c10::kCUDA;
  explicit Guard(c10::DeviceType = c10::kCUDA) {}
  static c10::Stream stream(int id) { return c10::Stream(c10::Stream::UNSAFE, GPU, id); }
  c10::DeviceType type() const override { return c10::kCUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return GPU; }
  c10::Device getDevice() const override { return GPU; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return stream(current); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(0); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(1 + next_stream++ % (STREAMS - 1)); }
  c10::Stream exchangeStream(c10::Stream to) const override {
    const std::lock_guard lock(used_lock);
    used.insert(static_cast<int>(to.id()));
    return stream(std::exchange(current, static_cast<int>(to.id())));
  }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void **event, const c10::Stream &on, c10::DeviceIndex, c10::EventFlag) const override {
    if (!*event)
      *event = new Mark;
    const int id = static_cast<int>(on.id());
    *static_cast<Mark *>(*event) = {id, queued(id)};
  }
  void synchronizeEvent(void *event) const override { wait(static_cast<Mark *>(event)->stream, static_cast<Mark *>(event)->until); }
  void destroyEvent(void *event, c10::DeviceIndex) const noexcept override { delete static_cast<Mark *>(event); }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Memory final : c10::Allocator {
  struct Block {
    size_t size;
    int stream;
  };
  std::mutex lock;
  std::map<void *, Block> blocks;
  std::map<std::pair<int, size_t>, std::vector<void *>> free;
  std::atomic<int> taken{0};
  static Memory &one() {
    static Memory memory;
    return memory;
  }
  static void give_back(void *data) {
    const std::lock_guard lock(one().lock);
    const Block block = one().blocks.at(data);
    queue(block.stream, [=] { std::memset(data, 0xAB, block.size); });
    one().free[{block.stream, block.size}].push_back(data);
    --one().taken;
  }
  c10::DataPtr allocate(size_t bytes) override {
    const std::lock_guard guard(lock);
    const size_t size = (bytes + 512) / 512 * 512;
    auto &those = free[{current, size}];
    if (those.empty()) {
      those.push_back(std::aligned_alloc(64, size));
      std::memset(those.back(), 0xCD, size);
      blocks[those.back()] = {size, current};
    }
    void *data = those.back();
    those.pop_back();
    ++taken;
    return {data, data, &give_back, GPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

struct PageLocked final : c10::Allocator {
  static void give_back(void *data) {
    --page_locked;
    std::free(data);
  }
  c10::DataPtr allocate(size_t bytes) override {
    ++page_locked, ++page_locked_made;
    void *data = std::aligned_alloc(64, (bytes + 64) / 64 * 64);
    return {data, data, &give_back, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void *to, const void *from, size_t bytes) const override { std::memcpy(to, from, bytes); }
} page_locked_memory;

at::Tensor on_host(const at::Tensor &t) {
  if (t.is_cpu())
    return t;
  const int64_t elements = static_cast<int64_t>(t.storage().nbytes() / t.element_size());
  return at::from_blob(t.storage().mutable_data(), {elements}, at::TensorOptions(t.scalar_type())).as_strided(t.sizes(), t.strides(), t.storage_offset());
}

void transfer(const at::Tensor &to, const at::Tensor &from, bool non_blocking) {
  const at::Tensor target = on_host(to), source = on_host(from);
  if (non_blocking && to.device() != from.device() && target.strides() == source.strides() && source.is_non_overlapping_and_dense()) {
    // The host's side is kept until then, as by libtorch's allocator of page-locked memory; the GPU's is not.
    const c10::Storage host = to.is_cpu() ? to.storage() : from.storage();
    void *data = target.data_ptr();
    const void *elements = source.const_data_ptr();
    const size_t bytes = source.nbytes();
    ++copies_pending;
    return queue(current, [=] {
      std::memcpy(data, elements, bytes);
      (void)host;
      --copies_pending;
    });
  }
  // With gaps libtorch copies a second time on the host, and does not wait before that: what is there then is something else.
  if (non_blocking && !target.is_contiguous()) {
    target.fill_(-1);
    return;
  }
  wait(current, queued(current));
  target.copy_(source);
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &Memory::one(), c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(at::kFloat), format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &Memory::one(), c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(at::kFloat));
}

at::Tensor copy_from_and_resize(const at::Tensor &from, const at::Tensor &to) {
  if (from.sizes() != to.sizes()) {
    const at::Tensor room = at::empty(from.sizes(), to.options());
    to.unsafeGetTensorImpl()->set_storage_keep_dtype(room.storage());
    to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
  }
  transfer(to, from, false);
  return to;
}

at::Tensor as_strided(const at::Tensor &t, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) { return at::native::as_strided_tensorimpl(t, size, stride, offset); }
at::Tensor view(const at::Tensor &t, c10::IntArrayRef size) { return at::native::view(t, size); }
at::Tensor reshape_alias(const at::Tensor &t, c10::IntArrayRef size, c10::IntArrayRef stride) { return at::native::_reshape_alias(t, size, stride); }
void on_the_processor(const c10::OperatorHandle &op, torch::jit::Stack *stack) { at::native::cpu_fallback(op, stack); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("as_strided", TORCH_FN(as_strided));
  m.impl("view", TORCH_FN(view));
  m.impl("_reshape_alias", TORCH_FN(reshape_alias));
}
TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_the_processor>()); }

} // namespace

namespace at {
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  Allocator *getPinnedMemoryAllocator() const override { return &page_locked_memory; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
} // namespace at

namespace {

void copy_kernel(at::TensorIterator &iterator, bool non_blocking) { transfer(iterator.tensor(0), iterator.tensor(1), non_blocking); }

int faults = 0;

void expect(bool holds, const std::string &what) {
  if (!holds && ++faults)
    std::printf("fault: %s\n", what.c_str());
}

rh_module *load(const std::string &path, bool on_gpu) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  rh_module *module = nullptr;
  char *error = nullptr;
  if (rh_load(bytes.str().data(), bytes.str().size(), on_gpu ? 0 : -1, &module, &error))
    throw std::runtime_error(path + ": " + error);
  return module;
}

rh_module *session(const rh_module *of) {
  rh_module *module = nullptr;
  char *error = nullptr;
  if (rh_session(of, &module, &error))
    throw std::runtime_error(error);
  return module;
}

void collect(const rh_value &value, std::vector<at::Tensor> &tensors) {
  if (value.tag == RH_TENSOR) {
    const std::unique_ptr<at::Tensor> owned(static_cast<at::Tensor *>(value.tensor->handle));
    tensors.push_back(*owned);
  }
  for (size_t i = 0; value.items && i < value.count; ++i)
    collect(value.items[i], tensors);
}

// The tensors that come out; none, and the error's text, if the call fails.
std::vector<at::Tensor> call(rh_module *module, const at::Tensor &x, std::string *error = nullptr) {
  std::vector<int64_t> dims = x.sizes().vec();
  dims.insert(dims.end(), x.strides().begin(), x.strides().end());
  rh_tensor tensor{};
  tensor.data = x.data_ptr();
  tensor.sizes = dims.data();
  tensor.strides = dims.data() + x.dim();
  tensor.dim = x.dim();
  tensor.dtype = static_cast<int32_t>(x.scalar_type());
  rh_value value{};
  value.tag = RH_TENSOR;
  value.tensor = &tensor;
  rh_result *result = nullptr;
  char *text = nullptr;
  std::vector<at::Tensor> tensors;
  if (rh_run(module, 0, &value, 1, &result, &text)) {
    if (error)
      *error = text;
    rh_free_text(text);
    return tensors;
  }
  collect(*rh_result_value(result), tensors);
  rh_drop_result(result);
  return tensors;
}

bool agree(rh_module *a, rh_module *b, const at::Tensor &x) {
  const auto left = call(a, x), right = call(b, x);
  bool same = !left.empty() && left.size() == right.size();
  for (size_t i = 0; same && i < left.size(); ++i)
    same = left[i].is_cpu() && left[i].sizes() == right[i].sizes() && at::allclose(left[i], right[i], 1e-4, 1e-5);
  return same;
}

template <class Work> void at_once(int callers, Work &&work) {
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i)
    threads.emplace_back([&, i] { work(i); });
  for (auto &thread : threads)
    thread.join();
}

void nothing_is_left(const std::string &name, int memory) {
  expect(current == 0, name + ": the current stream is another one");
  expect(copies_pending == 0, name + ": a copy is pending");
  expect(page_locked == 0, name + ": page-locked memory is kept");
  // The thread of a fork lets go of its values after it gave its result.
  for (int i = 0; i < 400 && Memory::one().taken != memory; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  expect(Memory::one().taken == memory, name + ": memory of the GPU is kept");
}

void without_state(const std::string &name, const std::string &path, bool forks) {
  rh_module *gpu = load(path, true), *cpu = load(path, false);
  used.clear();
  const int weights = Memory::one().taken;
  for (const int rows : {1, 3, 8, 3, 0, 200}) {
    expect(agree(gpu, cpu, at::randn({rows, 4})), name + ": other numbers");
    expect(agree(gpu, cpu, at::randn({4, 2 * rows + 1}).t().slice(0, 0, rows)), name + ": other numbers, from an input with gaps");
    nothing_is_left(name, weights);
  }
  std::atomic<int> wrong{0};
  at_once(6, [&](int) {
    for (int i = 0; i < 60; ++i)
      wrong += !agree(gpu, cpu, at::randn({1 + i % 5, 4}));
  });
  expect(wrong == 0, name + ": other numbers with six callers");
  expect(forks == (used == std::set<int>{0}), name + ": not on the streams that it should run on");
  std::string error;
  expect(call(gpu, at::randn({2, 5}), &error).empty() && !error.empty(), name + ": a call did not fail");
  nothing_is_left(name, weights);
  rh_drop_module(gpu);
  rh_drop_module(cpu);
  nothing_is_left(name, 0);
}

void with_state(const std::string &name, const std::string &path) {
  rh_module *gpu = load(path, true), *cpu = load(path, false);
  for (int i = 0; i < 20; ++i)
    expect(agree(gpu, cpu, at::randn({2, 4})), name + ": other numbers");
  if (rh_state_of(gpu) == RH_STATE_IN_ATTRIBUTES) {
    std::atomic<int> wrong{0};
    at_once(5, [&](int caller) {
      rh_module *mine = session(gpu), *expected = session(cpu);
      for (int i = 0; i < 50; ++i)
        wrong += !agree(mine, expected, at::randn({2, 4}) + caller);
      rh_drop_module(mine);
      rh_drop_module(expected);
    });
    expect(wrong == 0, name + ": other numbers with five sessions");
  }
  rh_drop_module(gpu);
  rh_drop_module(cpu);
  nothing_is_left(name, 0);
}

using rust_host::FirstCalls;

void first_calls_run_alone() {
  FirstCalls calls(2);
  std::atomic<int> now{0}, most{0}, beside{0}, good[2] = {};
  at_once(6, [&](int caller) {
    for (int i = 0; i < 40; ++i) {
      const int method = (caller + i / 20) % 2;
      FirstCalls::Turn turn(calls, method);
      const int running = ++now;
      most = std::max(most.load(), running);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      beside += turn.is_alone() && (running != 1 || now != 1);
      if (i % 3 == 0) {
        turn.succeeded();
        good[method] += turn.is_alone();
      }
      --now;
    }
  });
  expect(beside == 0, "first calls: one ran beside another");
  expect(most > 1, "first calls: later ones do not run at once");
  expect(good[0] == 4 && good[1] == 4, "first calls: not four of each method that succeeded");
}

FirstCalls *waited_for = nullptr;
std::atomic<bool> over{false};
std::atomic<int> asked{0}, answered{0};

void calls_inside_calls_do_not_wait() {
  FirstCalls calls(2);
  waited_for = &calls;
  std::atomic<bool> begun{false};
  std::thread other([&] {
    const FirstCalls::Turn turn(calls, 0), inner(calls, 1);
    expect(turn.is_alone() && !inner.is_alone(), "first calls: the inner call is alone too");
    for (begun = true; !over;)
      std::this_thread::yield();
  });
  while (!begun)
    std::this_thread::yield();
  // What a signal handler may do: it calls the model that its thread waits for, and says then that the wait should end.
  rh_set_poll([]() -> int32_t {
    if (asked++ > 0)
      return 0;
    over = true;
    const FirstCalls::Turn turn(*waited_for, 0);
    answered += turn.is_alone();
    return 1;
  });
  bool ended = false;
  try {
    const FirstCalls::Turn turn(calls, 0);
  } catch (const rust_host::Interrupted &) {
    ended = true;
  }
  expect(ended && answered == 1, "first calls: the wait did not end, or the call of who asked");
  other.join();
  rh_set_poll(nullptr);
  const FirstCalls::Turn turn(calls, 0);
  expect(turn.is_alone(), "first calls: who gave up is still in line");
}

void too_large_for_page_locked_memory(const std::string &path) {
  rh_module *gpu = load(path, true), *cpu = load(path, false);
  const int before = page_locked_made;
  expect(agree(gpu, cpu, at::randn({6 << 20, 4})), "large: other numbers");
  expect(page_locked_made == before, "large: page-locked memory was taken");
  rh_drop_module(gpu);
  rh_drop_module(cpu);
}

} // namespace

int main(int, char **arguments) {
  const std::string folder = std::string(arguments[1]) + "/";
  at::set_num_threads(1);
  at::native::copy_stub.set_cuda_dispatch_ptr(&copy_kernel);
  c10::SetAllocator(c10::kCUDA, &Memory::one());
  torch::jit::setTensorExprFuserEnabled(false); // its code for CUDA is not here
  char *error = nullptr;
  rh_initialise(&error);
  for (const std::string name : {"Net", "Several", "Shared", "OnBoth", "Forks"})
    without_state(name, folder + name + ".pt", name == "Forks");
  for (const std::string name : {"Remembers", "Counts"})
    with_state(name, folder + name + ".pt");
  first_calls_run_alone();
  calls_inside_calls_do_not_wait();
  too_large_for_page_locked_memory(folder + "Net.pt");
  std::printf("%d faults\n", faults);
  return faults != 0;
}
