// The steps of an LSTM without a package, for the test that compares them with torch.
#include "lstm_work.h"
#include <vector>
namespace {
#include "lstm_steps.inc"
}

// One direction; `threads` share the rows. Gates and results are [row][step] or, with time first, [step][row].
extern "C" void run_steps(const int64_t *sizes, const float *gates, const float *weights, float *h, float *c, float *out, bool time_first, bool backwards, bool from_zero, int64_t threads) {
  const int64_t batch = sizes[0], steps = sizes[1], hidden = sizes[2], padded = (hidden + LANES - 1) / LANES * LANES, row = row_of_state(padded, LANES);
  const int64_t a_row = time_first ? 1 : steps, a_step = time_first ? batch : 1, start = backwards ? steps - 1 : 0, sign = backwards ? -1 : 1;
  for (int64_t thread = threads - 1; thread >= 0; --thread) { // in whatever order they come
    const int64_t first = batch * thread / threads, rows = batch * (thread + 1) / threads - first;
    std::vector<float> one(rows * row), other(rows * row), cells(rows * row);
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(&one[i * row], h + (first + i) * hidden, hidden * sizeof(float));
      memcpy(&cells[i * row], c + (first + i) * hidden, hidden * sizeof(float));
    }
    all_steps({gates + (first * a_row + start * a_step) * 4 * padded, weights, {one.data(), other.data()}, cells.data(),
               out + (first * a_row + start * a_step) * hidden, rows, steps, hidden, padded, row,
               a_row * 4 * padded, sign * a_step * 4 * padded, a_row * hidden, sign * a_step * hidden, from_zero});
    for (int64_t i = 0; i < rows; ++i) {
      memcpy(h + (first + i) * hidden, &(steps % 2 ? other : one)[i * row], hidden * sizeof(float));
      memcpy(c + (first + i) * hidden, &cells[i * row], hidden * sizeof(float));
    }
  }
}
