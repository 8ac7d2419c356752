// The kernel of matrix products without a package, for the test that compares it with torch.
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>
namespace {
#include "products.inc"

#include "matmul.inc"
}

// sizes: batch, rows, columns, inner; strides: three each of a, b, out.
extern "C" void multiply_matrices(const int64_t *sizes, const int64_t *strides, const float *a, const float *b, float *out, float factor,
                                  bool adds, int64_t threads) {
  const auto at = [&](int which) { return Strides{strides[3 * which], strides[3 * which + 1], strides[3 * which + 2]}; };
  const MatmulPlan plan({sizes[0], sizes[1], sizes[2], sizes[3], a, b, out, at(0), at(1), at(2), factor, adds}, threads);
  std::vector<float> scratch(plan.scratch(), __builtin_nanf(""));
  for (int64_t thread = threads - 1; thread >= 0; --thread) // in whatever order they come
    plan.run(scratch.data(), plan.pieces() * thread / threads, plan.pieces() * (thread + 1) / threads);
}
