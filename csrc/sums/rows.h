// What products with spikes consist of: rows of a matrix, picked by a list, are added to sums that stay in registers.
// A column's terms are added in the order of the list in one chain.
#pragma once
#include "../egru/vector.h"

namespace sums {
namespace PA_ISA {

using egru::PA_ISA::Vec;

// sum += row
template <class R, int N>
PA_HD void add_row(Vec<R> (&sum)[N], const R* row) {
#pragma GCC unroll 24
  for (int j = 0; j < N; ++j) sum[j].add(Vec<R>::load(row + j * Vec<R>::width));
}

// sum += scale row
template <class R, int N>
PA_HD void add_row(Vec<R> (&sum)[N], R scale, const R* row) {
  const Vec<R> s = Vec<R>::all(scale);
#pragma GCC unroll 24
  for (int j = 0; j < N; ++j) sum[j].add(s, Vec<R>::load(row + j * Vec<R>::width));
}

// sum += the rows that row(e) points at, e < count, times values[e] if Graded.
template <bool Graded, class R, int N, class Row>
PA_HD void add_rows(Vec<R> (&sum)[N], int64_t count, const R* values, const Row& row) {
  for (int64_t e = 0; e < count; ++e) {
    if constexpr (Graded)
      add_row(sum, values[e], row(e));
    else
      add_row(sum, row(e));
  }
}

}  // namespace PA_ISA
}  // namespace sums
