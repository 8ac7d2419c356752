#include "lstm.h"
#include <ATen/Parallel.h>
#include <cstring>

namespace rust_host {
namespace {

constexpr int64_t PANEL = 128;
// Fewer multiplications of a whole sequence than this are done before a second thread has begun.
constexpr int64_t FEWEST_FOR_A_THREAD = 1 << 18;

// What one thread works on: some rows of the batch, from the first step to the last.
struct Work {
  const float *gates, *panels;
  float *h, *c, *out, *sums;
  int64_t rows, steps, hidden, columns;
};

#if defined(__x86_64__) && !defined(__clang__) // which does not know the pragmas
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
namespace avx2 {
#include "lstm_steps.inc"
}
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma")
#define LANES 16
namespace avx512 {
#include "lstm_steps.inc"
}
#undef LANES
#pragma GCC pop_options
#endif

struct Kind {
  void (*steps)(const Work &);
  int64_t most_rows; // measured with a state of 128
};

const Kind &kind() {
  static const Kind found = [] {
#if defined(__x86_64__) && !defined(__clang__) // which does not know the pragmas
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
      return Kind{avx512::all_steps, 8};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return Kind{avx2::all_steps, 2};
#endif
    return Kind{nullptr, 0};
  }();
  return found;
}

} // namespace

int64_t LstmLayer::most_rows() { return kind().most_rows; }

LstmLayer::LstmLayer(const at::Tensor &weight) : hidden(weight.size(1)) {
  const int64_t columns = (4 * hidden + PANEL - 1) / PANEL * PANEL;
  at::Tensor padded = at::zeros({columns, hidden}, weight.options());
  padded.narrow(0, 0, 4 * hidden).copy_(weight);
  panels = padded.view({columns / PANEL, PANEL, hidden}).transpose(1, 2).contiguous();
}

at::Tensor LstmLayer::operator()(const at::Tensor &gates, at::Tensor &h, at::Tensor &c) const {
  const auto steps = kind().steps;
  const int64_t batch = gates.size(0), time = gates.size(1), columns = panels.size(0) * PANEL;
  at::Tensor out = at::empty({batch, time, hidden}, gates.options()), sums = at::empty({batch, columns}, gates.options());
  const float *given = gates.const_data_ptr<float>(), *weights = panels.const_data_ptr<float>();
  float *states = h.mutable_data_ptr<float>(), *cells = c.mutable_data_ptr<float>(), *results = out.mutable_data_ptr<float>(), *scratch = sums.mutable_data_ptr<float>();
  const int64_t rows_a_thread = std::max<int64_t>(1, FEWEST_FOR_A_THREAD / std::max<int64_t>(1, time * hidden * 4 * hidden));
  at::parallel_for(0, batch, rows_a_thread, [&](int64_t first, int64_t end) {
    steps({given + first * time * 4 * hidden, weights, states + first * hidden, cells + first * hidden, results + first * time * hidden, scratch + first * columns, end - first, time, hidden, columns});
  });
  return out;
}

} // namespace rust_host
