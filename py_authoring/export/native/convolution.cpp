// The convolution of compiled packages: `rust_host::direct_convolution` of export/kernels/convolution.py, linked into the library.
#include "convolution_sizes.h"
#include "kernel.h"

namespace {

#include "convolution.inc"

#include "depthwise.inc"

// Whether a tensor's numbers lie as those of [n][h][w][c] do; strides of axes with one place say nothing.
bool is_channels_last(const int64_t *sizes, const int64_t *strides) {
  const int64_t order[] = {1, 3, 2, 0};
  int64_t expected = 1;
  for (const int64_t axis : order) {
    if (sizes[axis] != 1 && strides[axis] != expected)
      return false;
    expected *= sizes[axis];
  }
  return true;
}

} // namespace

// Takes float32: x [n, c, h, w], channels last; weights and a bias for each channel as `pack` and `fill` of
// export/kernels/convolution.py order them; `other`, like the result, is added before relu. Only this library sees it.
extern "C" __attribute__((visibility("hidden"))) AOTITorchError
aoti_torch_cpu_direct_convolution(AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle bias, AtenTensorHandle *other,
                                  int64_t outputs, int64_t kernel_h, int64_t kernel_w, int64_t stride_h, int64_t stride_w,
                                  int64_t padding_h, int64_t padding_w, int64_t dilation_h, int64_t dilation_w, int64_t groups,
                                  int32_t relu, AtenTensorHandle *ret0) {
  int64_t *in = nullptr, *in_strides = nullptr;
  TRY(aoti_torch_get_sizes(x, &in));
  TRY(aoti_torch_get_strides(x, &in_strides));
  if (!is_channels_last(in, in_strides))
    return AOTI_TORCH_FAILURE;
  const int64_t room_h = in[2] + 2 * padding_h - dilation_h * (kernel_h - 1) - 1, room_w = in[3] + 2 * padding_w - dilation_w * (kernel_w - 1) - 1;
  if (room_h < 0 || room_w < 0)
    return AOTI_TORCH_FAILURE; // the picture is smaller than the kernel, which eager refuses too
  const int64_t out_h = room_h / stride_h + 1, out_w = room_w / stride_w + 1;
  const Sizes all{in[0], in[2], in[3], in[1] / groups, outputs / groups, out_h, out_w, kernel_h, kernel_w, stride_h, stride_w,
                  padding_h, padding_w, dilation_h, dilation_w, groups};
  const float *input = nullptr, *weights = nullptr, *biases = nullptr, *added = nullptr, *result = nullptr;
  TRY(floats(x, &input));
  TRY(floats(weight, &weights));
  TRY(floats(bias, &biases));
  if (other) {
    int64_t *added_sizes = nullptr, *added_strides = nullptr;
    TRY(aoti_torch_get_sizes(*other, &added_sizes));
    TRY(aoti_torch_get_strides(*other, &added_strides));
    const bool alike = added_sizes[0] == in[0] && added_sizes[1] == outputs && added_sizes[2] == out_h && added_sizes[3] == out_w;
    if (!alike || !is_channels_last(added_sizes, added_strides))
      return AOTI_TORCH_FAILURE;
    TRY(floats(*other, &added));
  }
  Owned out, scratch;
  const int64_t sizes[] = {in[0], outputs, out_h, out_w}, strides[] = {out_h * out_w * outputs, 1, out_w * outputs, outputs};
  TRY(empty(sizes, strides, 4, &out.handle));
  TRY(floats(out.handle, &result));
  const bool parallel = HAS_THREADS && all.multiplications() >= FEWEST_FOR_THREADS;
  const auto run = [&](const auto &plan) {
    in_parallel(plan.pieces(), parallel, [&](int64_t begin, int64_t end) {
      plan.run(input, weights, biases, added, const_cast<float *>(result), relu != 0, begin, end);
    });
    *ret0 = out.handle;
    out.handle = nullptr;
    return AOTI_TORCH_SUCCESS;
  };
  if (is_depthwise(all))
    return run(Depthwise{all});
  const Plan plan(all);
  if (const int64_t size = plan.scratch()) {
    const float *copy = nullptr;
    const int64_t one = 1;
    TRY(empty(&size, &one, 1, &scratch.handle));
    TRY(floats(scratch.handle, &copy));
    in_parallel(plan.s.count * plan.lines(), parallel, [&](int64_t begin, int64_t end) { plan.copy(input, const_cast<float *>(copy), begin, end); });
    input = copy;
  }
  return run(plan);
}
