// The C boundary between Rust and libtorch, for what tch does not reach: loading from scanned bytes, arguments of every
// TorchScript type, inference mode, hooks, aliasing. Every function catches everything and returns a text instead.
// src/ffi.rs has the same declarations; keep the two in one order.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {

enum rh_tag : int32_t {
  RH_NONE = 0,
  RH_TENSOR = 1,
  RH_INT = 2,
  RH_FLOAT = 3,
  RH_BOOL = 4,
  RH_STR = 5,
  RH_LIST = 6,
  RH_TUPLE = 7,
  RH_DICT = 8,         // items are key, value, key, value, …
  RH_NAMED_TUPLE = 9,  // items are name (a string), value, …
  RH_DEFAULT = 10,     // an argument that was left out
};

enum rh_status : int32_t {
  RH_OK = 0,
  RH_INVALID_INPUT = 1,  // a value does not fit its argument
  RH_FAILED = 2,         // the model raised, or an operator did
  RH_NO_MEMORY = 3,
  RH_INVALID_MODEL = 4,  // the file cannot be loaded
  RH_UNAVAILABLE = 5,
  RH_INTERRUPTED = 6, // the function of rh_set_poll said so
};

enum rh_state : int32_t {
  RH_STATELESS = 0,
  RH_STATE_IN_ATTRIBUTES = 1, // methods assign attributes or change lists and dicts: rh_session gives a copy
  RH_STATE_IN_MEMORY = 2,     // methods write into tensors: only loading again gives a copy
};

enum rh_speed : int32_t {
  RH_PLAIN = 0,     // as the file says; nothing else was asked for, or there is nothing to gain
  RH_UNCHECKED = 1, // prepared; the next call compares
  RH_FAST = 2,
  RH_DROPPED = 3, // prepared, or not possible; it gave other numbers or failed, and the plain form is used
};

struct rh_tensor {
  void *data;             // first element
  const int64_t *sizes;   // valid while the owner lives
  const int64_t *strides; // in elements
  int64_t dim;
  int32_t dtype;          // c10::ScalarType
  int32_t writable;       // result: nobody else refers to this memory
  int64_t span;           // result: bytes from `data` to the end of the last element
  void *handle;           // result: an at::Tensor on the heap, taken over by the receiver (tch::Tensor::from_ptr)
  void *owner;            // argument: released exactly once, when the last tensor over this memory is gone
  void (*release)(void *owner);
};

struct rh_value {
  int32_t tag;
  int64_t integer;  // int, bool
  double number;
  const char *text;
  size_t count;  // bytes of text, number of items
  const rh_value *items;
  rh_tensor *tensor;
};

struct rh_module;
struct rh_result;

// All of these return a status; if it is not RH_OK, *error is a text to be freed with rh_free_text.
int32_t rh_load(const char *data, size_t size, int32_t cuda_index /* -1: cpu */, rh_module **out, char **error);
void rh_drop_module(rh_module *);
// What its methods keep between calls: one of the enum rh_state.
int32_t rh_state_of(const rh_module *);
// Prepares a fast form of `forward`, which the next call compares with the plain one; before the first call alone. Where a
// model has none, nothing happens.
int32_t rh_optimise(rh_module *, double rtol, double atol, double atol_of_largest, char **error);
// One of the enum rh_speed.
int32_t rh_speed_of(const rh_module *);
// A module with RH_STATE_IN_ATTRIBUTES as it was loaded, with attributes of its own and the same weights.
int32_t rh_session(const rh_module *, rh_module **out, char **error);
// One signature a line, `forward(x: Tensor, k: int=2) -> Tensor`; freed with rh_free_text.
int32_t rh_methods(const rh_module *, char **text, char **error);
// Every operator of every function in the file, one a line, as libtorch names them.
int32_t rh_operators(const rh_module *, char **text, char **error);
int32_t rh_run(rh_module *, size_t method, const rh_value *arguments, size_t count, rh_result **out, char **error);
const rh_value *rh_result_value(const rh_result *);
void rh_drop_result(rh_result *);
void rh_free_text(char *);

// Once a process: print() of models to standard error, one thread in the child after a fork.
int32_t rh_initialise(char **error);
const char *rh_version();
// A question that loops ask every 20 ms or so, on the thread that runs them: not 0 ends the call.
void rh_set_poll(int32_t (*ask)());
// Brings libtorch_cuda in, which the linker leaves out; an error text says why it cannot be loaded.
int32_t rh_load_cuda(char **error);
}
