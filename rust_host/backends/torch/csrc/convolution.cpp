#include "convolution.h"
#include "convolution_sizes.h"
#include <ATen/Parallel.h>

namespace rust_host {
namespace {

// With more inputs the weights leave the second cache, and oneDNN is a tenth faster: measured with 512 at 7 × 7.
constexpr int64_t MOST_INPUTS = 511;
// Fewer multiplications than this are done before a second thread has begun.
constexpr double FEWEST_FOR_THREADS = 300'000;

#if defined(__x86_64__) && !defined(__clang__) // which does not know the pragmas
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
namespace avx2 {
#include "convolution.inc"
}
#undef LANES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,fma")
#define LANES 16
namespace avx512 {
#include "convolution.inc"
}
#undef LANES
#pragma GCC pop_options
#endif

struct Call {
  const float *x, *weight, *bias;
  float *out;
  bool relu;
};

template <class Plan> void in_parallel(const Sizes &sizes, const Call &call) {
  const Plan plan(sizes);
  const bool parallel = sizes.multiplications() >= FEWEST_FOR_THREADS;
  const auto each = [&](int64_t pieces, const auto &work) {
    if (parallel)
      at::parallel_for(0, pieces, 1, work);
    else
      work(int64_t{0}, pieces);
  };
  at::Tensor scratch;
  const float *x = call.x;
  if (plan.scratch() > 0) {
    scratch = at::empty({plan.scratch()}, at::kFloat);
    float *copy = scratch.mutable_data_ptr<float>();
    each(plan.s.count * plan.lines(), [&](int64_t begin, int64_t end) { plan.copy(call.x, copy, begin, end); });
    x = copy;
  }
  each(plan.pieces(), [&](int64_t begin, int64_t end) { plan.run(x, call.weight, call.bias, nullptr, call.out, call.relu, begin, end); });
}

struct Kind {
  int64_t lanes, channels_at_once, most_at_once;
  void (*run)(const Sizes &, const Call &);
};

const Kind &kind() {
  static const Kind found = [] {
#if defined(__x86_64__) && !defined(__clang__) // which does not know the pragmas
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
      return Kind{16, avx512::CHANNELS_AT_ONCE, avx512::MOST_CHANNELS_AT_ONCE, in_parallel<avx512::Plan>};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      return Kind{8, avx2::CHANNELS_AT_ONCE, avx2::MOST_CHANNELS_AT_ONCE, in_parallel<avx2::Plan>};
#endif
    return Kind{0, 0, 0, nullptr};
  }();
  return found;
}

int64_t filled(int64_t outputs, int64_t lanes) {
  const int64_t tile = (outputs > 2 * lanes ? 4 : 2) * lanes;
  return (outputs + tile - 1) / tile * tile;
}

// As `pack` of py_authoring/export/kernels.py.
at::Tensor pack(const at::Tensor &weight) {
  const auto &[lanes, at_once, most_at_once, run] = kind();
  const int64_t outputs = weight.size(0), channels = weight.size(1);
  at::Tensor padded = at::zeros({filled(outputs, lanes), channels, weight.size(2), weight.size(3)}, weight.options());
  padded.narrow(0, 0, outputs).copy_(weight);
  std::vector<at::Tensor> parts = padded.view({-1, lanes, channels, weight.size(2), weight.size(3)}).split(channels <= most_at_once ? channels : at_once, 2);
  for (at::Tensor &part : parts)
    part = part.permute({0, 3, 4, 2, 1}).flatten(1);
  return at::cat(parts, 1).flatten();
}

} // namespace

bool DirectConvolution::is_for(const at::Tensor &weight) {
  const bool is_product = weight.size(2) == 1 && weight.size(3) == 1;
  return kind().run && weight.numel() > 0 && (is_product || weight.size(1) <= MOST_INPUTS);
}

DirectConvolution::DirectConvolution(const at::Tensor &weight, const std::optional<at::Tensor> &bias, std::vector<int64_t> stride, std::vector<int64_t> padding)
    : outputs(weight.size(0)), inputs(weight.size(1)), height(weight.size(2)), width(weight.size(3)), stride(std::move(stride)), padding(std::move(padding)), packed(pack(weight)) {
  start = at::zeros({filled(outputs, kind().lanes)}, weight.options());
  if (bias && bias->defined())
    start.narrow(0, 0, outputs).copy_(*bias);
}

at::Tensor DirectConvolution::of_rows(const at::Tensor &x, bool relu) const {
  auto sizes = x.sizes().vec();
  const int64_t rows = x.numel() / sizes.back();
  sizes.back() = outputs;
  at::Tensor out = at::empty(sizes, x.options());
  kind().run({1, 1, rows, inputs, outputs, 1, rows, 1, 1, 1, 1, 0, 0},
             {x.const_data_ptr<float>(), packed.const_data_ptr<float>(), start.const_data_ptr<float>(), out.mutable_data_ptr<float>(), relu});
  return out;
}

at::Tensor DirectConvolution::operator()(const at::Tensor &x, bool relu) const {
  const int64_t out_h = (x.size(2) + 2 * padding[0] - height) / stride[0] + 1, out_w = (x.size(3) + 2 * padding[1] - width) / stride[1] + 1;
  at::Tensor out = at::empty({x.size(0), outputs, out_h, out_w}, x.options(), at::MemoryFormat::ChannelsLast);
  kind().run({x.size(0), x.size(2), x.size(3), inputs, outputs, out_h, out_w, height, width, stride[0], stride[1], padding[0], padding[1]},
             {x.const_data_ptr<float>(), packed.const_data_ptr<float>(), start.const_data_ptr<float>(), out.mutable_data_ptr<float>(), relu});
  return out;
}

} // namespace rust_host
