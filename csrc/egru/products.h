// Products with the recurrent weights, from packed panels.
#pragma once
#include "../sums/products.h"
#include "rows.h"

namespace egru {
namespace PA_ISA {

using namespace sums::PA_ISA;

// Panels, see pack.h: `Vectors` vectors of one k side by side.
//   forward:  q = y R; a panel holds z, r and g of one vector of units: [H / W][k < H][3][W]
//   backward: dy = dq R^T; panels of three vectors of units, the last of what is left: [..][k < 3H][3][W]

// Some rows, each with its own list of active units; all of them with one panel before the next, which stays in L1.
template <class R>
void gather_rows(const R* y, const int32_t* active, int64_t room, const int32_t* counts, int rows, const R* packed,
                 int64_t hidden, const R* first, R* out) {
  using V = Vec<R>;
  constexpr int many = 4;
  const int64_t padded = round_up(hidden, V::width);
  for (int64_t n = 0; n < padded; n += V::width, packed += hidden * 3 * V::width) {
    const Place<const R> from{first + n, 0, padded};
    int i = 0;
    for (; i + many <= rows; i += many)
      gather_tile<R, many, 3>(y + i * hidden, hidden, active + i * room, room, counts + i, packed, from,
                              {out + i * 3 * padded + n, 3 * padded, padded});
    for (; i < rows; ++i)
      gather_tile<R, 1, 3>(y + i * hidden, hidden, active + i * room, room, counts + i, packed, from,
                           {out + i * 3 * padded + n, 3 * padded, padded});
  }
}

// tile_rows rows: out[row][gate][unit] = first + y R. Rows are padded to whole tiles by the caller.
template <class R>
void dense_gates(const R* y, int64_t ldy, const R* packed, int64_t hidden, const R* first, R* out, int64_t ldo) {
  using V = Vec<R>;
  const int64_t padded = round_up(hidden, V::width), size = hidden * 3 * V::width;
  for (int64_t n = 0; n < padded / V::width; ++n)
    dense_tile<R, V::tile_rows, 3>(y, ldy, packed + n * size, 3 * V::width, hidden, {first + n * V::width, 0, padded},
                                   {out + n * V::width, ldo, padded});
}

// tile_rows rows: out[row][unit] = dq R^T.
template <class R>
void dense_back(const R* dq, int64_t ldq, const R* packed, int64_t hidden, R* out, int64_t ldo) {
  using V = Vec<R>;
  each_panel(packed, hidden, 3 * hidden, [&](auto vectors, int64_t unit, const R* panel) {
    constexpr int many = decltype(vectors)::value;
    dense_tile<R, V::tile_rows, many>(dq, ldq, panel, many * V::width, 3 * hidden, {nullptr, 0, 0},
                                      {out + unit, ldo, V::width});
  });
}

}  // namespace PA_ISA
}  // namespace egru
