#include "lstm.h"
#include "lstm_work.h"
#include <ATen/Parallel.h>

namespace rust_host {
namespace {

// Fewer multiplications of a whole sequence than this are done before a second thread has begun.
constexpr int64_t FEWEST_FOR_A_THREAD = 1 << 18;

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
  int64_t lanes, most_rows; // measured with a state of 128, which gains least: 0.81 of libtorch's time at 16 rows, 1.0 from 32 on; 0.96 at 64
};

const Kind &kind() {
  static const Kind found = [] {
#if defined(__x86_64__) && !defined(__clang__) // which does not know the pragmas
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
      return Kind{avx512::all_steps, 16, 16};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return Kind{avx2::all_steps, 8, 64};
#endif
    return Kind{nullptr, 8, 0};
  }();
  return found;
}

int64_t up(int64_t units) { return (units + kind().lanes - 1) / kind().lanes * kind().lanes; }

} // namespace

int64_t LstmLayer::most_rows() { return kind().most_rows; }

at::Tensor LstmLayer::in_groups(const at::Tensor &gates) {
  const int64_t lanes = kind().lanes, hidden = gates.size(0) / 4, rest = gates.dim() == 2 ? gates.size(1) : 1;
  at::Tensor padded = at::zeros({4, up(hidden), rest}, gates.options());
  padded.narrow(1, 0, hidden).copy_(gates.reshape({4, hidden, rest}));
  const at::Tensor grouped = padded.view({4, up(hidden) / lanes, lanes, rest}).transpose(0, 1).reshape({4 * up(hidden), rest});
  return gates.dim() == 2 ? grouped : grouped.squeeze(1);
}

LstmLayer::LstmLayer(const at::Tensor &weight) : hidden(weight.size(1)), padded(up(hidden)) {
  packed = in_groups(weight).view({padded / kind().lanes, 4 * kind().lanes, hidden}).transpose(1, 2).contiguous();
}

at::Tensor LstmLayer::operator()(const at::Tensor &gates, at::Tensor &h, at::Tensor &c) const {
  const auto steps = kind().steps;
  const int64_t batch = gates.size(0), time = gates.size(1), row = row_of_state(padded, kind().lanes), each = batch * row;
  at::Tensor out = at::empty({batch, time, hidden}, gates.options()), states = at::zeros({3, batch, row}, gates.options());
  states[0].narrow(1, 0, hidden).copy_(h);
  states[2].narrow(1, 0, hidden).copy_(c);
  const float *given = gates.const_data_ptr<float>(), *weights = packed.const_data_ptr<float>();
  float *own = states.mutable_data_ptr<float>(), *results = out.mutable_data_ptr<float>();
  const int64_t rows_a_thread = std::max<int64_t>(1, FEWEST_FOR_A_THREAD / std::max<int64_t>(1, time * hidden * 4 * hidden));
  at::parallel_for(0, batch, rows_a_thread, [&](int64_t first, int64_t end) {
    float *begin = own + first * row;
    steps({given + first * time * 4 * padded, weights, {begin, begin + each}, begin + 2 * each, results + first * time * hidden,
           end - first, time, hidden, padded, row, time * 4 * padded, 4 * padded, time * hidden, hidden, false});
  });
  h.copy_(states[time % 2].narrow(1, 0, hidden));
  c.copy_(states[2].narrow(1, 0, hidden));
  return out;
}

} // namespace rust_host
