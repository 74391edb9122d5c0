// The gradient of weights that spikes come through: sums of outer products of active units with rows of a gradient.
#pragma once
#include "rows.h"

namespace sums {
namespace PA_ISA {

// Some columns of one row of dW: out += sum over entries e of y[e] dq[row[e]].
template <class R, int Vectors>
inline void add_active(const R* y, const int32_t* row, int count, const R* dq, int64_t ldq, R* out) {
  using V = Vec<R>;
  V sum[Vectors];
#pragma GCC unroll 24
  for (int j = 0; j < Vectors; ++j) sum[j] = V::load(out + j * V::width);
  add_rows<true>(sum, count, y, [=](int64_t e) { return dq + row[e] * ldq; });
#pragma GCC unroll 24
  for (int j = 0; j < Vectors; ++j) sum[j].store(out + j * V::width);
}

// dW += y^T dq from the active units alone, listed for each row of dW with room for `room`. A few columns for all rows
// at a time: those columns of dq then stay in L1.
template <class R>
void add_outer(const R* y, const int32_t* row, const int32_t* counts, int64_t room, int64_t hidden, const R* dq,
               int64_t ldq, R* out) {
  using V = Vec<R>;
  int64_t n = 0;
  const auto run = [&](auto vectors) {
    constexpr int many = decltype(vectors)::value;
    for (; n + many * V::width <= ldq; n += many * V::width)
      for (int64_t k = 0; k < hidden; ++k)
        if (counts[k]) add_active<R, many>(y + k * room, row + k * room, counts[k], dq + n, ldq, out + k * ldq + n);
  };
  run(std::integral_constant<int, V::outer_columns>());
  run(std::integral_constant<int, 1>());
}

}  // namespace PA_ISA
}  // namespace sums
