// A model in a C++ program, with many pictures in one call and calls of several threads at once.
//
//   rust-host build models/mnist -o digits --header
//   c++ digits.cpp -I digits -L digits -ldigits -pthread -o read-digits
//   ./read-digits < pixels        784 bytes for each digit
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "digits.h"

constexpr std::size_t pixels = 784, classes = 10;

// The digit in each picture.
static std::vector<int> read(const std::vector<float> &images) {
    const std::size_t count = images.size() / pixels;
    std::vector<float> log_probabilities(count * classes);
    if (digits_run(static_cast<std::int64_t>(count), images.data(), log_probabilities.data()) != 0) {
        throw std::runtime_error(digits_error());
    }
    std::vector<int> digits;
    for (std::size_t i = 0; i < count; i++) {
        const auto first = log_probabilities.begin() + static_cast<std::ptrdiff_t>(i * classes);
        digits.push_back(static_cast<int>(std::max_element(first, first + classes) - first));
    }
    return digits;
}

int main() try {
    std::vector<float> images;
    std::transform(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>(), std::back_inserter(images),
                   [](char pixel) { return static_cast<float>(static_cast<unsigned char>(pixel)) / 255; });

    auto other = std::async(std::launch::async, read, std::cref(images));
    const std::vector<int> digits = read(images);
    for (const int digit : digits) {
        std::cout << digit << "\n";
    }
    return digits == other.get() ? 0 : 1;
} catch (const std::exception &e) {
    std::cerr << "error: " << e.what() << "\n";
    return 1;
}
