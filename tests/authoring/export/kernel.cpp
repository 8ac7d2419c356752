// The kernel of compiled packages without a package, for the test that compares it with torch.
#include "convolution_sizes.h"
#include <vector>
namespace {
#include "convolution.inc"
#include "depthwise.inc"
}

extern "C" void convolve(const int64_t *sizes, const float *x, const float *weight, const float *bias, const float *other, float *out, bool relu, int64_t threads) {
  const Sizes all{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10], sizes[11], sizes[12], sizes[13], sizes[14], sizes[15]};
  const auto run = [&](const auto &plan) {
    for (int64_t thread = threads - 1; thread >= 0; --thread) // in whatever order they come
      plan.run(x, weight, bias, other, out, relu, plan.pieces() * thread / threads, plan.pieces() * (thread + 1) / threads);
  };
  if (is_depthwise(all))
    return run(Depthwise{all});
  const Plan plan(all);
  std::vector<float> scratch(plan.scratch());
  if (plan.scratch()) {
    plan.copy(x, scratch.data(), 0, plan.s.count * plan.lines());
    x = scratch.data();
  }
  run(plan);
}
