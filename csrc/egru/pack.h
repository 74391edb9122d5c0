// The recurrent weights as panels, see products.h; units beyond the last are zero.
#pragma once
#include "../sums/products.h"
#include "rows.h"

namespace egru {
namespace PA_ISA {

template <class R>
int64_t packed_bytes(int64_t hidden) {
  return 3 * hidden * round_up(hidden, Vec<R>::width) * static_cast<int64_t>(sizeof(R));
}

template <class R>
void pack(const Problem& p, void* packed, bool transposed) {
  constexpr int64_t W = Vec<R>::width;
  const int64_t hidden = p.hidden;
  const R* weights = static_cast<const R*>(p.recurrent);
  R* to = static_cast<R*>(packed);
  if (transposed) return sums::PA_ISA::pack_panels(weights, hidden, 3 * hidden, 3 * hidden, 1, to);
  for (int64_t n = 0; n < hidden; n += W)
    for (int64_t k = 0; k < hidden; ++k)
      for (int64_t j = 0; j < 3; ++j)
        for (int64_t unit = n; unit < n + W; ++unit)
          *to++ = unit < hidden ? weights[(k * 3 + j) * hidden + unit] : R(0);
}

}  // namespace PA_ISA
}  // namespace egru
