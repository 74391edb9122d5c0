// Products with the recurrent weights, from packed panels. Every sum runs over k in order in one chain, so that leaving
// out the zeros (gather) changes no bit.
#pragma once
#include "rows.h"
#include "vector.h"

namespace egru {
namespace PA_ISA {

// Panels of N columns: columns of a vector lie together, `Vectors` vectors of one k side by side.
//   forward:  q = y R; a panel holds z, r and g of one vector of units: [H / W][k < H][3][W]
//   backward: dy = dq R^T; panels of three vectors of units, the last of what is left: [..][k < 3H][3][W]
constexpr int64_t kAhead = 8;  // rows of a panel that are on their way from L2

template <class R, int Rows, int Vectors>
inline void dense_tile(const R* a, int64_t lda, const R* panel, int64_t depth, const R* first, int64_t first_stride,
                       R* out, int64_t ldo, int64_t out_stride) {
  using V = Vec<R>;
  V sum[Rows][Vectors];
#pragma GCC unroll 24
  for (int j = 0; j < Vectors; ++j)
#pragma GCC unroll 24
    for (int i = 0; i < Rows; ++i) sum[i][j] = first ? V::load(first + j * first_stride) : V::all(R(0));
  for (int64_t k = 0; k < depth; ++k) {
    V b[Vectors];
    for (int j = 0; j < Vectors; ++j) __builtin_prefetch(panel + ((k + kAhead) * Vectors + j) * V::width);
#pragma GCC unroll 24
    for (int j = 0; j < Vectors; ++j) b[j] = V::load(panel + (k * Vectors + j) * V::width);
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
    for (int j = 0; j < Vectors; ++j) sum[i][j].store(out + i * ldo + j * out_stride);
}

// One forward panel and some rows, active units alone. The rows' lists are walked side by side as far as the shortest
// goes: more sums in flight than one row has.
template <class R, int Rows>
inline void gather_panel(const R* y, const int32_t* active, int64_t room, const int32_t* counts, const R* panel,
                         int64_t hidden, int64_t padded, const R* first, R* out) {
  using V = Vec<R>;
  V sum[Rows][3];
  int shared = counts[0];
  for (int i = 1; i < Rows; ++i) shared = std::min<int>(shared, counts[i]);
#pragma GCC unroll 24
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 24
    for (int j = 0; j < 3; ++j) sum[i][j] = V::load(first + j * padded);
  const auto add = [&](int i, int e) __attribute__((always_inline)) {
    const int64_t k = active[i * room + e];
    const V s = V::all(y[i * hidden + k]);
#pragma GCC unroll 24
    for (int j = 0; j < 3; ++j) sum[i][j].add(s, V::load(panel + (k * 3 + j) * V::width));
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
    for (int j = 0; j < 3; ++j) sum[i][j].store(out + i * 3 * padded + j * padded);
}

// Some rows, each with its own list of active units; all of them with one panel before the next, which stays in L1.
template <class R>
void gather_rows(const R* y, const int32_t* active, int64_t room, const int32_t* counts, int rows, const R* packed,
                 int64_t hidden, const R* first, R* out) {
  using V = Vec<R>;
  constexpr int many = 4;
  const int64_t padded = round_up(hidden, V::width);
  for (int64_t n = 0; n < padded; n += V::width, packed += hidden * 3 * V::width) {
    int i = 0;
    for (; i + many <= rows; i += many)
      gather_panel<R, many>(y + i * hidden, active + i * room, room, counts + i, packed, hidden, padded, first + n,
                            out + i * 3 * padded + n);
    for (; i < rows; ++i)
      gather_panel<R, 1>(y + i * hidden, active + i * room, room, counts + i, packed, hidden, padded, first + n,
                         out + i * 3 * padded + n);
  }
}

// tile_rows rows: out[row][gate][unit] = first + y R. Rows are padded to whole tiles by the caller.
template <class R>
void dense_gates(const R* y, int64_t ldy, const R* packed, int64_t hidden, const R* first, R* out, int64_t ldo) {
  using V = Vec<R>;
  const int64_t padded = round_up(hidden, V::width), size = hidden * 3 * V::width;
  for (int64_t n = 0; n < padded / V::width; ++n)
    dense_tile<R, V::tile_rows, 3>(y, ldy, packed + n * size, hidden, first + n * V::width, padded, out + n * V::width,
                                   ldo, padded);
}

// tile_rows rows: out[row][unit] = dq R^T.
template <class R>
void dense_back(const R* dq, int64_t ldq, const R* packed, int64_t hidden, R* out, int64_t ldo) {
  using V = Vec<R>;
  const int64_t depth = 3 * hidden, blocks = round_up(hidden, V::width) / V::width;
  for (int64_t n = 0; n < blocks; n += 3) {
    const R* panel = packed + n * depth * V::width;
    R* to = out + n * V::width;
    if (n + 3 <= blocks)
      dense_tile<R, V::tile_rows, 3>(dq, ldq, panel, depth, nullptr, 0, to, ldo, V::width);
    else if (n + 2 <= blocks)
      dense_tile<R, V::tile_rows, 2>(dq, ldq, panel, depth, nullptr, 0, to, ldo, V::width);
    else
      dense_tile<R, V::tile_rows, 1>(dq, ldq, panel, depth, nullptr, 0, to, ldo, V::width);
  }
}

}  // namespace PA_ISA
}  // namespace egru
