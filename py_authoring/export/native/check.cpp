// What generated code does where an index lies outside its axis: torch's C interface has this function, and it throws, which no
// host in another language could. The package's own entry makes an error code of it.
#include <cstdint>
#include <stdexcept>

extern "C" __attribute__((visibility("hidden"))) void aoti_torch_check(bool holds, const char *, const char *, uint32_t,
                                                                       const char *message) {
  if (!holds)
    throw std::runtime_error(message);
}
