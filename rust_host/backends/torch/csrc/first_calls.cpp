#include "first_calls.h"
#include "guard.h"
#include <algorithm>
#include <chrono>

namespace rust_host {

namespace {

thread_local const FirstCalls::Turn *innermost = nullptr;

} // namespace

bool FirstCalls::may_run(const Turn &turn) const {
  for (const Turn *other : waiting) {
    if (other == &turn)
      break;
    if (!other->asking)
      return false;
  }
  return left.at(turn.method) > 0 ? running == 0 : !one_alone;
}

void FirstCalls::wait(Turn &turn, std::unique_lock<std::mutex> &lock) {
  struct Waiting {
    FirstCalls &calls;
    Turn &turn;
    std::unique_lock<std::mutex> &lock;
    Waiting(FirstCalls &calls, Turn &turn, std::unique_lock<std::mutex> &lock) : calls(calls), turn(turn), lock(lock) { calls.waiting.push_back(&turn); }
    ~Waiting() {
      if (!lock)
        lock.lock();
      calls.waiting.erase(std::find(calls.waiting.begin(), calls.waiting.end(), &turn));
      calls.changed.notify_all();
    }
  } in_line(*this, turn, lock);
  while (!may_run(turn)) {
    if (changed.wait_for(lock, std::chrono::milliseconds(20)) == std::cv_status::no_timeout)
      continue;
    turn.asking = true;
    changed.notify_all();
    lock.unlock();
    ask_interrupt();
    lock.lock();
    turn.asking = false;
  }
}

FirstCalls::Turn::Turn(FirstCalls &calls, size_t method) : calls(calls), method(method), outer(innermost) {
  for (const Turn *turn = outer; turn; turn = turn->outer)
    nested |= &turn->calls == &calls;
  if (!nested) {
    std::unique_lock lock(calls.lock);
    if (!calls.may_run(*this))
      calls.wait(*this, lock);
    ++calls.running;
    alone = calls.one_alone = calls.left[method] > 0;
  }
  innermost = this;
}

FirstCalls::Turn::~Turn() {
  innermost = outer;
  if (nested)
    return;
  const std::lock_guard lock(calls.lock);
  --calls.running;
  if (alone) {
    calls.one_alone = false;
    calls.left[method] -= has_succeeded;
  }
  if (!calls.waiting.empty())
    calls.changed.notify_all();
}

} // namespace rust_host
