// A 2-d convolution of spikes, as addresses and sizes: [images, in, height, width] -> [images, out, rows, columns].
#pragma once
#include <cstdint>

namespace conv {

struct Problem {
  int64_t images, in, height, width, out, rows, columns;
  int64_t kernel[2], stride[2], pad[2], dilation[2];  // down, across; pad: above and to the left
  bool last_in, last_out;                             // channels lie together: x, y and g_y
  bool graded;                                        // values of x count, not only where they are
  const float* x;
  uint64_t* mask;       // [images][words]: a bit per value of x, in the order of memory, and one word to spare
  const float* packed;  // see pack.h
  const float* bias;    // padded to whole panels
  float* y;
  const float* g_y;

  int64_t pixels() const { return height * width; }
  int64_t places() const { return rows * columns; }
  int64_t taps() const { return kernel[0] * kernel[1] * in; }
  int64_t words() const { return (in * pixels() + 63) / 64 + 1; }
};

struct Kernels {
  int panel;                                                    // output channels computed together
  bool (*scan)(const float* x, int64_t count, uint64_t* mask);  // whether all values are 0 or 1
  int64_t (*workspace_bytes)(const Problem&);
  void (*forward)(const Problem&, int64_t image, void* workspace);
  // Adds an image's share to g_weight, packed, and to g_bias, padded.
  void (*backward)(const Problem&, int64_t image, void* workspace, float* g_weight, float* g_bias);
};

const Kernels* find_baseline();
const Kernels* find_avx2();
const Kernels* find_avx512();

}  // namespace conv
