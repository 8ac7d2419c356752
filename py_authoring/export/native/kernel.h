// What every kernel of compiled packages needs: vectors, tensors behind libtorch's C interface, threads.
#pragma once
#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#if defined(__AVX512F__)
#define LANES 16
#else
#define LANES 8
#endif

namespace {

#ifdef ONE_THREAD
constexpr bool HAS_THREADS = false;
#else
constexpr bool HAS_THREADS = true;
#endif
// Below this many multiplications a second thread costs more than it does.
constexpr double FEWEST_FOR_THREADS = 300'000;

// A tensor of ours until the function ends.
struct Owned {
  AtenTensorHandle handle = nullptr;
  ~Owned() {
    if (handle)
      aoti_torch_delete_tensor_object(handle);
  }
};

template <class Work> void in_parallel(int64_t pieces, bool parallel, const Work &work) {
  const int64_t threads = parallel ? omp_get_max_threads() : 1;
  if (threads == 1)
    return work(0, pieces);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t thread = 0; thread < threads; ++thread)
    work(pieces * thread / threads, pieces * (thread + 1) / threads);
}

AOTITorchError floats(AtenTensorHandle tensor, const float **data) {
  void *found = nullptr;
  const AOTITorchError failed = aoti_torch_get_data_ptr(tensor, &found);
  *data = static_cast<const float *>(found);
  return failed;
}

AOTITorchError empty(const int64_t *sizes, const int64_t *strides, int64_t dims, AtenTensorHandle *made) {
  return aoti_torch_empty_strided(dims, sizes, strides, aoti_torch_dtype_float32(), aoti_torch_device_type_cpu(), 0, made);
}

#define TRY(call)                                                                                                              \
  if (const AOTITorchError failed = (call))                                                                                    \
  return failed

} // namespace
