// What the steps of one layer of an LSTM, in one direction, are of: some rows of a batch, from the first step to the last.
#pragma once
#include <cstdint>
#include <cstring>

// Gates come in groups of LANES units of the state: input, forget, cell and output gate of the first LANES units, then of the
// next ones. The last group is filled up, so `padded` is a multiple of LANES.
struct Work {
  const float *gates;   // the input's share with all biases: of the first row, at the step that comes first
  const float *weights; // [group][hidden][4][LANES]
  float *h[2], *c;      // [rows][state_row]; the state goes to and fro between the two, and is in h[steps % 2] in the end
  float *out;           // of the first row, at the step that comes first
  int64_t rows, steps, hidden, padded, state_row;
  int64_t gates_row, gates_step, out_row, out_step; // floats to the next one; backwards in time they are negative
  bool from_zero;                                   // whether the state before the first step is zero
};

// Floats from one row of a state to the next: those that lie a multiple of a kilobyte apart share their places in the first cache.
inline int64_t row_of_state(int64_t padded, int64_t lanes) { return padded % 256 == 0 ? padded + lanes : padded; }
