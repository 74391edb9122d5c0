// Products with spikes on the CPU: cut into tiles, spread over threads. Every sum is taken by one thread in one order,
// so that nothing depends on the number of threads.
#pragma once
#include "../sparse/problem.h"

namespace sparse {

// A matrix of floats, [rows, inputs], whose columns lie side by side.
struct Dense {
  const void* data;
  int64_t rows, inputs, ld;
  bool fp64;
};

struct Seen {
  int64_t entries, nonzero;
  bool graded;  // an entry is neither 0 nor 1
};

// Some rows, evenly spaced.
Seen sample(const Dense& x, int64_t rows);
// Bits of all rows, ceil(inputs / 64) words each, and where each row's entries start.
Seen scan(const Dense& x, uint64_t* mask, int32_t* offsets, int threads);
// Indices from bits; values from x, unless nullptr.
void fill(const Dense& x, const uint64_t* mask, const int32_t* offsets, uint16_t* index, void* values, int threads);
// Floats from bits alone.
void expand(const uint64_t* mask, const Spikes& to, bool fp64, void* out, int threads);

int64_t packed_elements(bool fp64, int64_t inputs, int64_t outputs);
bool pack(bool fp64, const void* weight, int64_t inputs, int64_t outputs, void* packed, int threads);
// out[rows, outputs] = x W^T + bias
void forward(bool fp64, const Spikes& x, const void* packed, const void* bias, int64_t outputs, void* out, int threads);
// The same from floats, for a few rows; the number of entries, or -1 if there are more than `most` (`out` is untouched).
int64_t step(const Dense& x, int64_t most, const void* packed, const void* bias, int64_t outputs, void* out,
             int threads);
// g_weight[outputs, inputs] = grad^T x and g_bias[outputs], unless nullptr; whether all of grad is finite.
bool weight_gradient(bool fp64, const Spikes& x, const void* grad, int64_t ld, int64_t outputs, void* g_weight,
                     void* g_bias, int threads);

}  // namespace sparse
