// What concerns the process and not one module: version, printing, forks, CUDA.
#include "guard.h"
#include "shim.h"
#include <ATen/Parallel.h>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#include <string>
#include <torch/csrc/jit/runtime/print_handler.h>
#include <torch/version.h>

static_assert(TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR == 13, "built for libtorch 2.13; change LIBTORCH_VERSION in rust_host/engine too");

namespace {

// libgomp's threads do not survive a fork; a parallel region in the child would wait for them for ever.
void one_thread_in_the_child() {
  try {
    at::set_num_threads(1);
  } catch (...) { // nothing can be reported from here, and one call less parallel is no fault
  }
}

} // namespace

extern "C" {

int32_t rh_initialise(char **error) {
  try {
    // Results go to standard output; what a model prints must not mix with them.
    torch::jit::setPrintHandler([](const std::string &text) { std::fwrite(text.data(), 1, text.size(), stderr); });
    rust_host::replace_operators();
    pthread_atfork(nullptr, nullptr, one_thread_in_the_child);
    return RH_OK;
  } catch (...) {
    *error = strdup("libtorch could not be set up");
    return RH_UNAVAILABLE;
  }
}

const char *rh_version() { return TORCH_VERSION; }

int32_t rh_load_cuda(char **error) {
  try {
    // By its path: it lies beside libtorch_cpu.so, and where that was opened by its own path (in Python) no search would find it.
    std::string path = "libtorch_cuda.so";
    Dl_info info;
    if (dladdr(reinterpret_cast<const void *>(&at::get_num_threads), &info) && info.dli_fname) {
      const std::string libtorch = info.dli_fname;
      path.insert(0, libtorch, 0, libtorch.rfind('/') + 1); // npos + 1 is 0: no folder
    }
    if (dlopen(path.c_str(), RTLD_LAZY | RTLD_GLOBAL))
      return RH_OK;
    const char *why = dlerror();
    *error = strdup(why ? why : "unknown reason");
  } catch (...) {
    *error = strdup("there is no memory for it");
  }
  return RH_UNAVAILABLE;
}
}
