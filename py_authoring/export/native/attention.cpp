// The attention of compiled packages: `rust_host::attention` of export/kernels/attention.py, linked into the library.
#include "kernel.h"
#include <cstring>
#include <utility>

namespace {

#include "products.inc"

#include "attention.inc"

struct Operand {
  const float *data = nullptr;
  int64_t *sizes = nullptr, *strides = nullptr;
  Axes at{};
  Owned copy;

  AOTITorchError read(AtenTensorHandle tensor) {
    TRY(aoti_torch_get_sizes(tensor, &sizes));
    TRY(aoti_torch_get_strides(tensor, &strides));
    at = {strides[0], strides[1], strides[2]};
    return floats(tensor, &data);
  }

  // Copies what does not lie in rows, which the graph avoids where it can know.
  AOTITorchError take_rows() {
    if (sizes[3] < 2 || strides[3] == 1)
      return AOTI_TORCH_SUCCESS;
    const int64_t rows = sizes[0] * sizes[1] * sizes[2], all = rows * sizes[3], one = 1;
    const float *to = nullptr;
    TRY(empty(&all, &one, 1, &copy.handle));
    TRY(floats(copy.handle, &to));
    for (int64_t row = 0; row < rows; ++row) {
      const float *from = data + row / (sizes[1] * sizes[2]) * at.batch + row / sizes[2] % sizes[1] * at.head + row % sizes[2] * at.row;
      for (int64_t i = 0; i < sizes[3]; ++i)
        const_cast<float *>(to)[row * sizes[3] + i] = from[i * strides[3]];
    }
    data = to;
    at = {sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3]};
    return AOTI_TORCH_SUCCESS;
  }
};

// As [batch][head][row], [batch][row][head] or [row][batch][head], each with its numbers behind it.
Axes strides_of(int64_t order, int64_t batch, int64_t heads, int64_t rows, int64_t size) {
  switch (order) {
  case 0: return {heads * rows * size, rows * size, size};
  case 1: return {heads * rows * size, size, heads * size};
  default: return {heads * size, size, batch * heads * size};
  }
}

} // namespace

// Takes float32: q [batch, heads, queries, size], k [batch, key heads, keys, size], v [batch, key heads, keys, value size], of any
// strides; `mask`, added to the scores, [batch or 1, heads or 1, queries or 1, keys or 1] of any
// strides; `order`, how the result lies in memory. Only this library sees it.
extern "C" __attribute__((visibility("hidden"))) AOTITorchError
aoti_torch_cpu_attention(AtenTensorHandle q, AtenTensorHandle k, AtenTensorHandle v, AtenTensorHandle *mask, double scale, int32_t causal,
                         int64_t order, int32_t none_is_nan, AtenTensorHandle *ret0) {
  Operand query, key, value, added;
  TRY(query.read(q));
  TRY(key.read(k));
  TRY(value.read(v));
  const int64_t batch = query.sizes[0], heads = query.sizes[1], queries = query.sizes[2], size = query.sizes[3];
  const int64_t key_heads = key.sizes[1], keys = key.sizes[2], value_size = value.sizes[3];
  const bool alike = key.sizes[0] == batch && value.sizes[0] == batch && key.sizes[3] == size && value.sizes[1] == key_heads && value.sizes[2] == keys;
  if (!alike || key_heads < 1 || heads % key_heads != 0)
    return AOTI_TORCH_FAILURE;
  TRY(query.take_rows());
  TRY(key.take_rows());
  TRY(value.take_rows());
  int64_t mask_strides[4] = {};
  if (mask) {
    TRY(added.read(*mask));
    const int64_t whole[] = {batch, heads, queries, keys};
    for (int axis = 0; axis < 4; ++axis) {
      if (added.sizes[axis] != 1 && added.sizes[axis] != whole[axis])
        return AOTI_TORCH_FAILURE;
      mask_strides[axis] = added.sizes[axis] == 1 ? 0 : added.strides[axis];
    }
  }
  Owned out, scratch;
  const Axes out_at = strides_of(order, batch, heads, queries, value_size);
  const int64_t sizes[] = {batch, heads, queries, value_size}, strides[] = {out_at.batch, out_at.head, out_at.row, 1};
  TRY(empty(sizes, strides, 4, &out.handle));
  const float *result = nullptr, *buffers = nullptr;
  TRY(floats(out.handle, &result));
  const double multiplications = static_cast<double>(batch) * heads * queries * keys * (size + value_size);
  const bool parallel = HAS_THREADS && multiplications >= FEWEST_FOR_THREADS;
  const int64_t threads = parallel ? omp_get_max_threads() : 1;
  const AttentionPlan plan({batch, heads, key_heads, queries, keys, size, value_size, query.data, key.data, value.data, added.data,
                            const_cast<float *>(result), query.at, key.at, value.at, out_at,
                            {mask_strides[0], mask_strides[1], mask_strides[2]}, mask_strides[3], static_cast<float>(scale), causal != 0,
                            none_is_nan != 0}, threads);
  const int64_t each = up(plan.scratch(), LANES) * LANES, all = each * threads, one = 1;
  TRY(empty(&all, &one, 1, &scratch.handle));
  TRY(floats(scratch.handle, &buffers));
  in_parallel(threads, parallel, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread)
      plan.run(const_cast<float *>(buffers) + thread * each, plan.pieces() * thread / threads, plan.pieces() * (thread + 1) / threads);
  });
  *ret0 = out.handle;
  out.handle = nullptr;
  return AOTI_TORCH_SUCCESS;
}
