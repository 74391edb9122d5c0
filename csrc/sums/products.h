// Products of rows with packed weights: dense in registers, or the weights' rows of the non-zero values alone. Every
// sum runs over k in order in one chain, so that leaving out the zeros changes no bit (with finite weights).
#pragma once
#include "rows.h"

namespace sums {
namespace PA_ISA {

using egru::PA_ISA::nonzero;
using egru::PA_ISA::round_up;

constexpr int64_t kAhead = 8;  // rows of a panel that are on their way from L2

// Where a tile of the result lies: vector j of row i at to + i * row + j * vector; a start of the sums likewise.
template <class R>
struct Place {
  R* to;
  int64_t row, vector;
};

// Rows x Vectors vectors: to = first + a panel. The panel's vectors of one k lie side by side, `ldp` apart over k.
template <class R, int Rows, int Vectors>
inline void dense_tile(const R* a, int64_t lda, const R* panel, int64_t ldp, int64_t depth, Place<const R> first,
                       Place<R> out) {
  using V = Vec<R>;
  V sum[Rows][Vectors];
#pragma GCC unroll 24
  for (int j = 0; j < Vectors; ++j)
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i)
      sum[i][j] = first.to ? V::load(first.to + i * first.row + j * first.vector) : V::all(R(0));
  for (int64_t k = 0; k < depth; ++k) {
    V b[Vectors];
    for (int j = 0; j < Vectors; ++j) __builtin_prefetch(panel + (k + kAhead) * ldp + j * V::width);
#pragma GCC unroll 24
    for (int j = 0; j < Vectors; ++j) b[j] = V::load(panel + k * ldp + j * V::width);
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i) {
      const V s = V::all(a[i * lda + k]);
#pragma GCC unroll 24
      for (int j = 0; j < Vectors; ++j) sum[i][j].add(s, b[j]);
    }
  }
#pragma GCC unroll 24
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 24
    for (int j = 0; j < Vectors; ++j) sum[i][j].store(out.to + i * out.row + j * out.vector);
}

// The same from lists of the non-zero values, one per row with room for `room`. The rows' lists are walked side by side
// as far as the shortest goes: more sums in flight than one row has.
template <class R, int Rows, int Vectors>
inline void gather_tile(const R* a, int64_t lda, const int32_t* active, int64_t room, const int32_t* counts,
                        const R* panel, Place<const R> first, Place<R> out) {
  using V = Vec<R>;
  V sum[Rows][Vectors];
  int shared = counts[0];
  for (int i = 1; i < Rows; ++i) shared = std::min<int>(shared, counts[i]);
#pragma GCC unroll 24
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 24
    for (int j = 0; j < Vectors; ++j)
      sum[i][j] = first.to ? V::load(first.to + i * first.row + j * first.vector) : V::all(R(0));
  const auto add = [&](int i, int e) __attribute__((always_inline)) {
    const int64_t k = active[i * room + e];
    add_row(sum[i], a[i * lda + k], panel + k * Vectors * V::width);
  };
  for (int e = 0; e < shared; ++e)
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i) add(i, e);
#pragma GCC unroll 24
  for (int i = 0; i < Rows; ++i)
    for (int e = shared; e < counts[i]; ++e) add(i, e);
#pragma GCC unroll 24
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 24
    for (int j = 0; j < Vectors; ++j) sum[i][j].store(out.to + i * out.row + j * out.vector);
}

// Square or not: weight[unit * of_unit + k * of_k] as panels of three vectors of units, the last of what is left:
// [..][k < depth][3][W]. Units beyond the last are zero.
constexpr int64_t kPanel = 3;

template <class R>
int64_t packed_elements(int64_t units, int64_t depth) {
  return round_up(units, Vec<R>::width) * depth;
}

template <class R>
void pack_panels(const R* weight, int64_t units, int64_t of_unit, int64_t depth, int64_t of_k, R* to) {
  constexpr int64_t W = Vec<R>::width;
  const int64_t blocks = round_up(units, W) / W;
  for (int64_t n = 0; n < blocks; n += kPanel)
    for (int64_t k = 0, width = std::min(kPanel, blocks - n) * W; k < depth; ++k)
      for (int64_t i = 0; i < width; ++i, ++to) {
        const int64_t unit = n * W + i;
        *to = unit < units ? weight[unit * of_unit + k * of_k] : R(0);
      }
}

// Calls body(number of vectors as a type, first unit, panel) for each panel.
template <class R, class Body>
inline void each_panel(const R* packed, int64_t units, int64_t depth, const Body& body) {
  constexpr int64_t W = Vec<R>::width;
  const int64_t blocks = round_up(units, W) / W;
  int64_t n = 0;
  for (; n + kPanel <= blocks; n += kPanel) body(std::integral_constant<int, kPanel>(), n * W, packed + n * depth * W);
  if (blocks - n == 2) body(std::integral_constant<int, 2>(), n * W, packed + n * depth * W);
  if (blocks - n == 1) body(std::integral_constant<int, 1>(), n * W, packed + n * depth * W);
}

}  // namespace PA_ISA
}  // namespace sums
