// The first calls of a method on a GPU run with no other call of the model beside them, those of its sessions included: libtorch
// makes its plans in them, with constants that are computed on one call's stream and then read on every other.
#pragma once
#include <condition_variable>
#include <mutex>
#include <vector>

namespace rust_host {

class FirstCalls {
public:
  explicit FirstCalls(size_t methods) : left(methods, 4) {}

  // A call while it runs.
  class Turn {
  public:
    // Waits, in order, until what must not run beside this call is over; throws Interrupted. Inside another call of its own
    // thread, which a signal handler may have interrupted, it waits for nothing: that one cannot go on meanwhile.
    Turn(FirstCalls &calls, size_t method);
    Turn(const Turn &) = delete;
    ~Turn();
    // Else the next call of the method is a first one still.
    void succeeded() { has_succeeded = true; }
    bool is_alone() const { return alone; }

  private:
    friend FirstCalls;
    FirstCalls &calls;
    const size_t method;
    const Turn *outer; // the call of this thread that this one runs in
    bool nested = false, alone = false, has_succeeded = false;
    bool asking = false; // while it waits: code of the process runs, which may call the model; others need not wait for it
  };

private:
  bool may_run(const Turn &turn) const;
  void wait(Turn &turn, std::unique_lock<std::mutex> &lock);

  std::mutex lock;
  std::condition_variable changed;
  std::vector<int> left; // for each method
  std::vector<const Turn *> waiting;
  int running = 0;
  bool one_alone = false;
};

} // namespace rust_host
