// What a convolution is of: `count` pictures of h × w pixels with `channels` numbers for each group, channels last; outputs are
// counted for each group, too.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>

struct Sizes {
  int64_t count, h, w, channels;
  int64_t outputs, out_h, out_w;
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w;
  int64_t dilation_h = 1, dilation_w = 1, groups = 1;

  double multiplications() const { return static_cast<double>(count) * out_h * out_w * groups * outputs * kernel_h * kernel_w * channels; }
};
