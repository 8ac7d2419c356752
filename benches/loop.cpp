// The fastest that a TorchScript file can be called as it is: C++, one input tensor made once, nothing around the forward pass.
// usage: loop FILE SECONDS SIZE,SIZE,… THREADS      prints the median microseconds of a call
#include <ATen/Parallel.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <torch/script.h>
#include <vector>

int main(int argc, char **argv) try {
  if (argc != 5)
    return std::fprintf(stderr, "usage: loop FILE SECONDS SIZE,SIZE,… THREADS\n"), 2;
  at::set_num_threads(std::atoi(argv[4]));
  auto module = torch::jit::load(argv[1]);
  module.eval();
  c10::InferenceMode guard;
  std::vector<int64_t> sizes;
  std::stringstream text(argv[3]);
  for (std::string n; std::getline(text, n, ',');)
    sizes.push_back(std::stoll(n));
  const auto input = torch::rand(sizes);
  auto forward = module.get_method("forward");
  using Clock = std::chrono::steady_clock;
  const auto seconds = std::chrono::duration<double>(std::atof(argv[2]));
  for (int i = 0; i < 3; ++i) // the first ones are profiled and compiled
    forward({input});
  for (const auto start = Clock::now(); Clock::now() - start < seconds / 5;)
    forward({input});
  std::vector<double> times;
  const auto start = Clock::now();
  for (auto last = start; last - start < seconds || times.size() < 3;) {
    forward({input});
    const auto now = Clock::now();
    times.push_back(std::chrono::duration<double, std::micro>(now - last).count());
    last = now;
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  std::printf("%.3f\n", times[times.size() / 2]);
  return 0;
} catch (const std::exception &e) {
  return std::fprintf(stderr, "error: %s\n", e.what()), 1;
}
