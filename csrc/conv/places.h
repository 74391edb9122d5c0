// What reaches one place of the output, and the memory in which it is listed.
#pragma once
#include "lists.h"

namespace conv {
namespace PA_ISA {

using egru::PA_ISA::Arena;
using V = egru::PA_ISA::Vec<float>;
#ifndef PA_CONV_VECTORS
#define PA_CONV_VECTORS 4
#endif
constexpr int kVectors = PA_CONV_VECTORS;
constexpr int64_t kPanel = kVectors * V::width;
constexpr int kBatch = 16;       // entries copied together
constexpr int64_t kPlaces = 64;  // places of the output at a time: what is turned to the other order is then in L1

struct Space {
  Lists lists;
  float* tile;     // [kPlaces][panel]
  int32_t* reach;  // what reaches one place of the output: rows of the weights
  float* value;
  Space(Arena& a, const Problem& p)
      : lists(a, p),
        tile(a.take<float>(kPlaces * kPanel)),
        reach(a.take<int32_t>(p.taps() + kBatch)),
        value(a.take<float>(p.graded ? p.taps() + kBatch : 0)) {}
};

// Lists the rows of the weights that the spikes take which reach one place of the output. Runs are short and of any
// length: copied in whole batches and joined, they cost the walk over them one wrong guess of a branch, not one each.
template <bool Graded>
inline int32_t collect(const Problem& p, const Space& s, int64_t place) {
  const int64_t row = place / p.columns, column = place % p.columns;
  const int64_t runs = p.dilation[1] == 1 ? 1 : p.kernel[1], wide = p.dilation[1] == 1 ? p.kernel[1] : 1;
  const int64_t top = row * p.stride[0] - p.pad[0], left = column * p.stride[1] - p.pad[1];
  int32_t found = 0;
  for (int64_t k = 0; k < p.kernel[0]; ++k) {
    const int64_t i = top + k * p.dilation[0];
    if (i < 0 || i >= p.height) continue;
    const int32_t* start = s.lists.start + i * p.width;
    for (int64_t r = 0; r < runs; ++r) {
      const int64_t j = left + r * p.dilation[1];
      const int64_t first = std::max<int64_t>(j, 0), last = std::min(j + wide, p.width);
      if (first >= last) continue;
      const int32_t from = start[first], count = start[last] - from;
      const int32_t base = static_cast<int32_t>((k * p.kernel[1] + r - j) * p.in);
      for (int32_t e = 0; e < count; e += kBatch) {
        for (int n = 0; n < kBatch; ++n) s.reach[found + e + n] = s.lists.code[from + e + n] + base;
        if (Graded)
          for (int n = 0; n < kBatch; ++n) s.value[found + e + n] = s.lists.value[from + e + n];
      }
      found += count;
    }
  }
  return found;
}

}  // namespace PA_ISA
}  // namespace conv
