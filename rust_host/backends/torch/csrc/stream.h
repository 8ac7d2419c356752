// Calls on a GPU: each on a stream of its own, so that those of several threads overlap, with copies through page-locked
// memory. libtorch's generic device interface is enough for that: no header and no library of CUDA is needed to compile or to
// load this.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <memory>
#include <thread>

namespace rust_host {

// A stream, and the event that says that what was queued on it is done. For one call at a time.
struct CallStream {
  explicit CallStream(c10::Stream stream) : stream(stream), done(stream.device_type()) {}
  const c10::Stream stream;
  c10::Event done;
  std::thread::id last; // who took it last
};

struct GiveBack {
  void operator()(CallStream *stream) const noexcept;
};

// No other call is given it until it is dropped. libtorch has 32 streams for each GPU and gives them out again after that, to
// others in this process as well: who shares one waits for the other's work too, and is as correct.
using TakenStream = std::unique_ptr<CallStream, GiveBack>;

// The default stream is one for all calls: for code that queues work from threads of its own, which begin on that stream, or
// that chooses streams itself.
TakenStream take_stream(c10::Device device, bool the_default);

// Makes it the current stream of this thread, and its device the current one. Whichever way this ends, nothing is pending then
// of what was queued: memory of one stream may be given to another without asking the device.
class OnStream {
public:
  explicit OnStream(CallStream &taken) : taken(taken), guard(taken.stream) {}
  ~OnStream();
  // Until what was queued is done; an error of the device comes out here.
  void wait();

private:
  CallStream &taken;
  c10::StreamGuard guard;
  bool waited = false;
};

// A tensor of the host on the current stream's device. The host's memory is no longer needed when this returns.
at::Tensor to_device(const at::Tensor &host, c10::Device device);

// Begins to copy a tensor of the current stream's device to page-locked memory, which holds it after the wait. Nothing for what
// is too large for that.
std::optional<at::Tensor> begin_to_host(const at::Tensor &tensor);

} // namespace rust_host
