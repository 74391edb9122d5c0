// Products of spikes with square weights [units, units] (to, from), in fp32, for one instruction set.
#pragma once
#include <cstdint>

namespace recurrent {

// Rows that lie `stride` elements apart.
struct Rows {
  const float* data;
  int64_t stride, count;
};

// Scratch of one thread for `forward`: who is active in each row.
struct Lists {
  int32_t *active, *counts;
  static int64_t room(int64_t units) { return units + 16; }
};

// Steps times samples of one sequence; a row of a step is at data + time * of_time + sample * of_sample.
struct Sequence {
  const float* data;
  int64_t of_time, of_sample;
};

struct Outer {
  int64_t steps, samples, units;
  Sequence spikes, gradient;  // spikes that reached the step, so those of the step before
  const float* first;         // [samples, units] spikes that reached the first step; nullptr: none did
  float *weight, *bias;       // [units, units] and [units], written; bias may be nullptr
  double dense_above;
};

struct Kernels {
  int64_t (*padded)(int64_t units);  // elements of a row of a product
  int64_t (*packed_elements)(int64_t units);
  void (*pack)(const float* weight, int64_t units, bool transposed, float* packed);
  bool (*finite)(const float* values, int64_t count);
  // out = spikes W^T, rows `padded` apart. In blocks of rows with a share of active units above `dense_above` by all
  // of them (a negative one: always); gives the number of active ones.
  int64_t (*forward)(const Rows& spikes, int64_t units, const float* packed, double dense_above, const Lists&,
                     float* out);
  // out = gradient W, from weights packed transposed
  void (*backward)(const Rows& gradient, int64_t units, const float* packed, float* out);
  // Columns [first, last) of the outer products: weight[n][k] = sum of gradient[n] spikes[k] in the order of the rows,
  // and the sums of the gradient.
  int64_t (*outer_bytes)(int64_t units, int64_t columns);
  void (*outer)(const Outer&, int64_t first, int64_t last, void* scratch);
  int64_t columns;  // by which [0, units) is best cut for `outer`
};

const Kernels* find_baseline();
const Kernels* find_avx2();
const Kernels* find_avx512();

}  // namespace recurrent
