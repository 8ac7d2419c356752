#include "stream.h"
#include <ATen/ATen.h>
#include <algorithm>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <mutex>
#include <vector>

namespace rust_host {

namespace {

// libtorch keeps page-locked memory in blocks of powers of two and never gives it back, and for what is larger than this the
// transfer takes longer than a wait for it costs the others.
constexpr size_t MOST_PAGE_LOCKED = 64 << 20;

bool is_page_locked(const at::Tensor &tensor) { return tensor.numel() > 0 && tensor.nbytes() <= MOST_PAGE_LOCKED; }

// Those that no call has at the moment.
struct Free {
  std::mutex lock;
  std::vector<std::unique_ptr<CallStream>> streams;
};

// Never destroyed: the driver may be gone when the process ends.
Free &free_streams() {
  static Free &free = *new Free;
  return free;
}

c10::Stream default_stream(c10::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getDefaultStream(device); }

} // namespace

void GiveBack::operator()(CallStream *stream) const noexcept {
  std::unique_ptr<CallStream> owned(stream);
  try {
    Free &free = free_streams();
    const std::lock_guard lock(free.lock);
    free.streams.push_back(std::move(owned));
  } catch (...) { // no memory for the list: one stream less is kept
  }
}

TakenStream take_stream(c10::Device device, bool the_default) {
  const c10::Stream usual = default_stream(device);
  const auto me = std::this_thread::get_id();
  {
    Free &free = free_streams();
    const std::lock_guard lock(free.lock);
    const auto fits = [&](const auto &stream) { return stream->stream.device() == device && (stream->stream == usual) == the_default; };
    // This thread's own, else the one that was used last: memory is kept for each stream, and a workspace of cuBLAS for each
    // pair of a thread and a stream.
    auto best = std::find_if(free.streams.rbegin(), free.streams.rend(), [&](const auto &stream) { return fits(stream) && stream->last == me; });
    if (best == free.streams.rend())
      best = std::find_if(free.streams.rbegin(), free.streams.rend(), fits);
    if (best != free.streams.rend()) {
      TakenStream taken(best->release());
      free.streams.erase(std::next(best).base());
      taken->last = me;
      return taken;
    }
  }
  const c10::Stream stream = the_default ? usual : c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  TakenStream taken(new CallStream(stream));
  taken->last = me;
  return taken;
}

OnStream::~OnStream() {
  if (waited)
    return;
  try {
    wait();
  } catch (...) { // the call has failed already, and says why
  }
}

void OnStream::wait() {
  taken.done.record(taken.stream);
  taken.done.synchronize();
  waited = true;
}

at::Tensor to_device(const at::Tensor &host, c10::Device device) {
  if (!is_page_locked(host))
    return host.to(device);
  const at::Tensor page_locked = at::empty_like(host, host.options().pinned_memory(true));
  page_locked.copy_(host);
  // libtorch gives the memory to nobody else before the stream has read it.
  return page_locked.to(device, host.scalar_type(), /*non_blocking=*/true);
}

std::optional<at::Tensor> begin_to_host(const at::Tensor &tensor) {
  if (!is_page_locked(tensor))
    return std::nullopt;
  // With gaps, or elements that are there twice, libtorch would copy once more on the host, and not wait before that.
  const at::Tensor dense = tensor.is_non_overlapping_and_dense() ? tensor.detach() : tensor.detach().contiguous();
  const at::Tensor page_locked = at::empty_like(dense, dense.options().device(at::kCPU).pinned_memory(true));
  page_locked.copy_(dense, /*non_blocking=*/true);
  return page_locked;
}

} // namespace rust_host
