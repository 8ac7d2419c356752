#include "small.h"
#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <cstring>

namespace rust_host {
namespace {

using Layer = SmallLayers::Layer;

// The most multiplications of a row: with more, libtorch's kernels make up for what their call costs.
constexpr int64_t MOST = 32'768;
// Fewer multiplications than this are done before a second thread has begun.
constexpr int64_t FEWEST_FOR_THREADS = 300'000;
// Of one layer, which bounds what lies on the stack.
constexpr int64_t MOST_OUTPUTS = 512;

// The compiler makes of it whatever vectors the processor of the function around it has.
constexpr int64_t BLOCK = 16;
using Block = float __attribute__((vector_size(BLOCK * sizeof(float))));

constexpr int64_t in_blocks(int64_t outputs) { return (outputs + BLOCK - 1) / BLOCK * BLOCK; }

#define RUST_HOST_INLINE inline __attribute__((always_inline))

// One layer of ROWS rows, whose sums stay in registers; each row of `out` is whole blocks.
template <int ROWS> RUST_HOST_INLINE void multiply(const float *x, int64_t next_row, const Layer &layer, float *out) {
  const float *column = layer.columns.const_data_ptr<float>(), *start = layer.start.const_data_ptr<float>();
  const int64_t width = in_blocks(layer.outputs);
  for (int64_t block = 0; block < width; block += BLOCK) {
    Block sums[ROWS];
    for (int row = 0; row < ROWS; ++row)
      std::memcpy(&sums[row], start + block, sizeof(Block));
    for (int64_t i = 0; i < layer.inputs; ++i, column += BLOCK) {
      Block weights;
      std::memcpy(&weights, column, sizeof(Block));
      for (int row = 0; row < ROWS; ++row)
        sums[row] += weights * x[row * next_row + i];
    }
    for (int row = 0; row < ROWS; ++row) {
      if (layer.relu)
        sums[row] = sums[row] < Block{} ? Block{} : sums[row]; // NaN stays
      std::memcpy(out + row * width + block, &sums[row], sizeof(Block));
    }
  }
}

// Whole blocks in the place of rows that end within one: what is written too far, the next row writes over.
RUST_HOST_INLINE void put(const float *from, int64_t rows, int64_t outputs, float *out, const float *end) {
  const int64_t width = in_blocks(outputs);
  for (int64_t row = 0; row < rows; ++row, from += width, out += outputs)
    for (int64_t block = 0; block < width; block += BLOCK)
      std::memcpy(out + block, from + block, end - (out + block) >= BLOCK ? sizeof(Block) : (outputs - block) * sizeof(float));
}

struct Call {
  const std::vector<Layer> &layers;
  const float *x;
  float *out;
  const float *end; // of `out`
};

template <int ROWS> RUST_HOST_INLINE void run_rows(Call &call, int64_t &rows) {
  alignas(64) float between[2][ROWS * MOST_OUTPUTS];
  for (; rows >= ROWS; rows -= ROWS) {
    const float *values = call.x;
    int64_t next_row = call.layers[0].inputs;
    int which = 0;
    for (const Layer &layer : call.layers) {
      multiply<ROWS>(values, next_row, layer, between[which]);
      values = between[which], next_row = in_blocks(layer.outputs), which ^= 1;
    }
    const int64_t outputs = call.layers.back().outputs;
    put(values, ROWS, outputs, call.out, call.end);
    call.x += ROWS * call.layers[0].inputs, call.out += ROWS * outputs;
  }
}

using Run = void (*)(Call, int64_t);

// As many rows at once as there are registers for, and what is left in halves.
#define RUST_HOST_RUN(name, at_once, ...)                                                                                      \
  __VA_ARGS__ void name(Call call, int64_t rows) {                                                                             \
    run_rows<at_once>(call, rows);                                                                                             \
    run_rows<at_once / 2>(call, rows);                                                                                         \
    run_rows<at_once / 4>(call, rows);                                                                                         \
    run_rows<1>(call, rows);                                                                                                   \
  }
RUST_HOST_RUN(run_plain, 4)
#if defined(__x86_64__)
RUST_HOST_RUN(run_avx2, 4, __attribute__((target("avx2,fma"))))
RUST_HOST_RUN(run_avx512, 8, __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma"))))
#endif

Run fastest() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    return run_avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return run_avx2;
#endif
  return run_plain;
}

} // namespace

bool SmallLayers::takes(const at::Tensor &weight) {
  const int64_t inputs = weight.size(1), outputs = weight.size(0);
  return inputs > 0 && outputs > 0 && outputs <= MOST_OUTPUTS && inputs * in_blocks(outputs) <= MOST;
}

bool SmallLayers::add(const at::Tensor &weight, const std::optional<at::Tensor> &bias, bool relu) {
  const int64_t inputs = weight.size(1), outputs = weight.size(0), width = in_blocks(outputs);
  int64_t multiplications = inputs * width;
  for (const Layer &layer : layers)
    multiplications += layer.inputs * in_blocks(layer.outputs);
  if (!takes(weight) || multiplications > MOST) {
    layers.clear();
    return false;
  }
  at::Tensor padded = at::zeros({width, inputs}, weight.options()), start = at::zeros({width}, weight.options());
  padded.narrow(0, 0, outputs).copy_(weight);
  if (bias && bias->defined())
    start.narrow(0, 0, outputs).copy_(*bias);
  layers.push_back({inputs, outputs, padded.view({width / BLOCK, BLOCK, inputs}).transpose(1, 2).contiguous(), start, relu});
  of_a_row = multiplications;
  return true;
}

at::Tensor SmallLayers::operator()(const at::Tensor &x) const {
  c10::SmallVector<int64_t, 5> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = layers.back().outputs;
  at::Tensor out = at::detail::empty_cpu(sizes, at::kFloat, /*pin_memory=*/false, std::nullopt);
  float *first = out.mutable_data_ptr<float>();
  const float *from = x.const_data_ptr<float>(), *end = first + out.numel();
  const int64_t inputs = layers[0].inputs, outputs = layers.back().outputs, rows = x.numel() / inputs;
  static const Run run = fastest();
  const auto some = [&](int64_t begin, int64_t to) { run({layers, from + begin * inputs, first + begin * outputs, to == rows ? end : first + to * outputs}, to - begin); };
  if (rows * of_a_row < FEWEST_FOR_THREADS)
    some(0, rows);
  else
    at::parallel_for(0, rows, FEWEST_FOR_THREADS / of_a_row / 4 + 1, some);
  return out;
}

} // namespace rust_host
