// The LSTM of compiled packages: `rust_host::lstm_layer` of export/kernels/lstm.py, linked into the library.
#include "kernel.h"
#include "lstm_work.h"

namespace {

#include "lstm_steps.inc"

// A state [directions, batch, hidden] as it lies; zeros where there is none.
struct State {
  const float *data = nullptr;
  int64_t strides[3] = {};

  AOTITorchError read(AtenTensorHandle *given, int64_t directions, int64_t batch, int64_t hidden) {
    if (!given)
      return AOTI_TORCH_SUCCESS;
    int64_t *sizes = nullptr, *found = nullptr;
    TRY(aoti_torch_get_sizes(*given, &sizes));
    TRY(aoti_torch_get_strides(*given, &found));
    if (sizes[0] != directions || sizes[1] != batch || sizes[2] != hidden)
      return AOTI_TORCH_FAILURE; // which eager refuses too
    memcpy(strides, found, sizeof strides);
    return floats(*given, &data);
  }

  void copy(int64_t direction, int64_t row, float *to, int64_t hidden) const {
    const float *from = data + direction * strides[0] + row * strides[1];
    for (int64_t unit = 0; unit < hidden; ++unit)
      to[unit] = data ? from[unit * strides[2]] : 0;
  }
};

} // namespace

// Takes float32: gates [batch, time, directions × padded × 4], or [time, batch, …], in the order of lstm_work.h; the weights as
// `pack` of export/kernels/lstm.py orders them; h and c [directions, batch, hidden], or none for zeros.
// Gives every h, [batch, time, directions × hidden] or [time, batch, …], and the last h and c, [2, directions, batch, hidden].
// Only this library sees it.
extern "C" __attribute__((visibility("hidden"))) AOTITorchError
aoti_torch_cpu_lstm_layer(AtenTensorHandle gates, AtenTensorHandle weight, AtenTensorHandle *h, AtenTensorHandle *c,
                          int64_t hidden, int64_t directions, int32_t batch_first, AtenTensorHandle *ret0, AtenTensorHandle *ret1) {
  const int64_t padded = (hidden + LANES - 1) / LANES * LANES, row = row_of_state(padded, LANES);
  int64_t *sizes = nullptr, *strides = nullptr;
  TRY(aoti_torch_get_sizes(gates, &sizes));
  TRY(aoti_torch_get_strides(gates, &strides));
  const int first = batch_first ? 0 : 1, second = 1 - first;
  const int64_t batch = sizes[first], steps = sizes[second], units = directions * hidden;
  if (sizes[2] != directions * padded * 4 || (strides[2] != 1 && sizes[2] != 1))
    return AOTI_TORCH_FAILURE;
  State hidden_state, cell_state;
  TRY(hidden_state.read(h, directions, batch, hidden));
  TRY(cell_state.read(c, directions, batch, hidden));
  const float *input = nullptr, *weights = nullptr, *result = nullptr, *last = nullptr, *scratch = nullptr;
  TRY(floats(gates, &input));
  TRY(floats(weight, &weights));
  Owned out, state, work;
  const int64_t out_sizes[] = {sizes[0], sizes[1], units}, out_strides[] = {sizes[1] * units, units, 1};
  TRY(empty(out_sizes, out_strides, 3, &out.handle));
  TRY(floats(out.handle, &result));
  const int64_t state_sizes[] = {2, directions, batch, hidden}, state_strides[] = {directions * batch * hidden, batch * hidden, hidden, 1};
  TRY(empty(state_sizes, state_strides, 4, &state.handle));
  TRY(floats(state.handle, &last));
  const int64_t each = directions * batch * row, all = 3 * each, one = 1;
  TRY(empty(&all, &one, 1, &work.handle));
  TRY(floats(work.handle, &scratch));
  const auto pieces = [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end;) {
      const int64_t direction = piece / batch, from = piece % batch, rows = (end - piece < batch - from ? end - piece : batch - from);
      float *own = const_cast<float *>(scratch) + piece * row;
      for (int64_t i = 0; i < rows; ++i) {
        hidden_state.copy(direction, from + i, own + i * row, hidden);
        cell_state.copy(direction, from + i, own + 2 * each + i * row, hidden);
        for (int64_t unit = hidden; unit < padded; ++unit)
          own[2 * each + i * row + unit] = 0;
      }
      const int64_t start = direction ? steps - 1 : 0, sign = direction ? -1 : 1;
      const int64_t out_row = out_strides[first], out_step = out_strides[second];
      all_steps({input + from * strides[first] + start * strides[second] + direction * padded * 4, weights + direction * padded * 4 * hidden,
                 {own, own + each}, own + 2 * each, const_cast<float *>(result) + from * out_row + start * out_step + direction * hidden,
                 rows, steps, hidden, padded, row, strides[first], sign * strides[second], out_row, sign * out_step, h == nullptr});
      for (int64_t i = 0; i < rows; ++i) {
        float *to = const_cast<float *>(last) + (piece + i) * hidden;
        memcpy(to, own + steps % 2 * each + i * row, hidden * sizeof(float));
        memcpy(to + directions * batch * hidden, own + 2 * each + i * row, hidden * sizeof(float));
      }
      piece += rows;
    }
  };
  const double multiplications = static_cast<double>(directions) * batch * steps * hidden * hidden * 4;
  in_parallel(directions * batch, HAS_THREADS && multiplications >= FEWEST_FOR_THREADS, pieces);
  *ret0 = out.handle;
  *ret1 = state.handle;
  out.handle = state.handle = nullptr;
  return AOTI_TORCH_SUCCESS;
}
