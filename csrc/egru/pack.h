// The recurrent weights as panels, see products.h; units beyond the last are zero.
#pragma once
#include "rows.h"
#include "vector.h"

namespace egru {
namespace PA_ISA {

template <class R>
int64_t packed_bytes(int64_t hidden) {
  return 3 * hidden * round_up(hidden, Vec<R>::width) * static_cast<int64_t>(sizeof(R));
}

template <class R>
void pack(const Problem& p, void* packed, bool transposed) {
  constexpr int64_t W = Vec<R>::width;
  const int64_t hidden = p.hidden, blocks = round_up(hidden, W) / W;
  const R* weights = static_cast<const R*>(p.recurrent);
  R* to = static_cast<R*>(packed);
  for (int64_t n = 0; n < blocks; n += transposed ? 3 : 1) {
    const int64_t vectors = transposed ? std::min<int64_t>(3, blocks - n) : 3;
    for (int64_t k = 0; k < (transposed ? 3 * hidden : hidden); ++k)
      for (int64_t j = 0; j < vectors; ++j)
        for (int64_t i = 0; i < W; ++i) {
          const int64_t unit = (transposed ? n + j : n) * W + i;
          const int64_t at = transposed ? unit * 3 * hidden + k : (k * 3 + j) * hidden + unit;
          *to++ = unit < hidden ? weights[at] : R(0);
        }
  }
}

}  // namespace PA_ISA
}  // namespace egru
