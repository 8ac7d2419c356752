// Products of matrices of compiled packages, under the names by which generated code asks its host for them: linked into the
// library, these answer before any host does.
#include "kernel.h"
#include <cstring>
#include <utility>

namespace {

#include "products.inc"

#include "matmul.inc"

struct Matrix {
  const float *data = nullptr;
  int64_t batch = 1, rows = 0, columns = 0;
  Strides at{};

  AOTITorchError read(AtenTensorHandle tensor, int64_t dims) {
    int64_t *sizes = nullptr, *strides = nullptr, found = 0;
    int32_t dtype = 0;
    TRY(aoti_torch_get_dtype(tensor, &dtype));
    TRY(aoti_torch_get_dim(tensor, &found));
    if (dtype != aoti_torch_dtype_float32() || found != dims)
      return AOTI_TORCH_FAILURE;
    TRY(aoti_torch_get_sizes(tensor, &sizes));
    TRY(aoti_torch_get_strides(tensor, &strides));
    if (dims == 3)
      batch = sizes[0], at.batch = strides[0];
    rows = sizes[dims - 2], columns = sizes[dims - 1];
    at.row = strides[dims - 2], at.column = strides[dims - 1];
    return floats(tensor, &data);
  }
};

// out = self × beta, where self has any of the axes, and one place or as many in each.
AOTITorchError fill(AtenTensorHandle self, float beta, const Matrix &out) {
  int64_t *sizes = nullptr, *strides = nullptr, dims = 0;
  const float *from = nullptr;
  TRY(aoti_torch_get_dim(self, &dims));
  TRY(aoti_torch_get_sizes(self, &sizes));
  TRY(aoti_torch_get_strides(self, &strides));
  TRY(floats(self, &from));
  int64_t step[3] = {};
  const int64_t whole[] = {out.batch, out.rows, out.columns};
  for (int64_t axis = dims - 1, to = 2; axis >= 0; --axis, --to) {
    if (to < 0 || (sizes[axis] != 1 && sizes[axis] != whole[to]))
      return AOTI_TORCH_FAILURE;
    step[to] = sizes[axis] == 1 ? 0 : strides[axis];
  }
  float *data = const_cast<float *>(out.data);
  for (int64_t i = 0; i < out.batch; ++i)
    for (int64_t row = 0; row < out.rows; ++row)
      for (int64_t column = 0; column < out.columns; ++column)
        data[i * out.at.batch + row * out.at.row + column * out.at.column] =
            beta == 0 ? 0 : from[i * step[0] + row * step[1] + column * step[2]] * beta; // nothing of NaN, as torch has it
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError compute(AtenTensorHandle result, AtenTensorHandle *self, AtenTensorHandle left, AtenTensorHandle right, int64_t dims, double beta, double alpha) {
  Matrix a, b, out;
  TRY(a.read(left, dims));
  TRY(b.read(right, dims));
  TRY(out.read(result, dims));
  if (a.batch != b.batch || a.batch != out.batch || a.columns != b.rows || a.rows != out.rows || b.columns != out.columns)
    return AOTI_TORCH_FAILURE;
  if (self)
    TRY(fill(*self, static_cast<float>(beta), out));
  const bool parallel = HAS_THREADS && static_cast<double>(a.batch) * a.rows * a.columns * b.columns >= FEWEST_FOR_THREADS;
  const int64_t threads = parallel ? omp_get_max_threads() : 1;
  const MatmulPlan plan({a.batch, a.rows, b.columns, a.columns, a.data, b.data, const_cast<float *>(out.data), a.at, b.at, out.at,
                         static_cast<float>(alpha), self != nullptr}, threads);
  Owned scratch;
  const float *buffers = nullptr;
  const int64_t each = plan.scratch(), all = each * threads, one = 1;
  TRY(empty(&all, &one, 1, &scratch.handle));
  TRY(floats(scratch.handle, &buffers));
  in_parallel(threads, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      plan.run(const_cast<float *>(buffers) + thread * each, plan.pieces() * thread / threads, plan.pieces() * (thread + 1) / threads);
  });
  return AOTI_TORCH_SUCCESS;
}

} // namespace

#define ONLY_HERE extern "C" __attribute__((visibility("hidden"))) AOTITorchError

// All of float32 and of any strides. [n, k] · [k, m], and the same in a batch; + self × beta, which may be smaller.
ONLY_HERE aoti_torch_cpu_mm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2) {
  return compute(out, nullptr, self, mat2, 2, 0, 1);
}
ONLY_HERE aoti_torch_cpu_bmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat2) {
  return compute(out, nullptr, self, mat2, 3, 0, 1);
}
ONLY_HERE aoti_torch_cpu_addmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle mat1, AtenTensorHandle mat2, double beta, double alpha) {
  return compute(out, &self, mat1, mat2, 2, beta, alpha);
}
ONLY_HERE aoti_torch_cpu_baddbmm_out(AtenTensorHandle out, AtenTensorHandle self, AtenTensorHandle batch1, AtenTensorHandle batch2, double beta, double alpha) {
  return compute(out, &self, batch1, batch2, 3, beta, alpha);
}
