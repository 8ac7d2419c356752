// The kernel of attention without a package, for the test that compares it with torch.
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>
namespace {
#include "products.inc"

#include "attention.inc"
}

// sizes: batch, heads, key heads, queries, keys, size, value size; strides: three each of q, k, v, out, four of the mask.
extern "C" void attend(const int64_t *sizes, const int64_t *strides, const float *q, const float *k, const float *v, const float *mask,
                       float *out, float scale, bool causal, bool none_is_nan, int64_t threads) {
  const auto axes = [&](int which) { return Axes{strides[3 * which], strides[3 * which + 1], strides[3 * which + 2]}; };
  const AttentionPlan plan({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], q, k, v, mask, out,
                            axes(0), axes(1), axes(2), axes(3), axes(4), strides[15], scale, causal, none_is_nan}, threads);
  std::vector<float> scratch(plan.scratch(), __builtin_nanf(""));
  for (int64_t thread = threads - 1; thread >= 0; --thread) // in whatever order they come
    plan.run(scratch.data(), plan.pieces() * thread / threads, plan.pieces() * (thread + 1) / threads);
}
