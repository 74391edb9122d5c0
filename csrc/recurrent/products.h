// The products of a recurrent step, each way.
#pragma once
#include "../sums/products.h"
#include "kernels.h"

namespace recurrent {
namespace PA_ISA {

using namespace sums::PA_ISA;
using V = Vec<float>;

inline int64_t padded(int64_t units) { return round_up(units, V::width); }
inline int64_t square_elements(int64_t units) { return packed_elements<float>(units, units); }

// Whether all values are finite: zero times any other is NaN, which a sum over active units alone would miss.
inline bool finite(const float* v, int64_t n) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += v[i] * 0.0f;
  return sum == 0.0f;
}

inline void pack(const float* weight, int64_t units, bool transposed, float* packed) {
  pack_panels(weight, units, transposed ? 1 : units, units, transposed ? units : 1, packed);
}

// Calls body(rows as a type, first row) for all of them in tiles as large as they come.
template <class Body>
inline void each_rows(int64_t count, const Body& body) {
  int64_t i = 0;
  if constexpr (V::tile_rows == 8)
    for (; i + 8 <= count; i += 8) body(std::integral_constant<int, 8>(), i);
  for (; i + 4 <= count; i += 4) body(std::integral_constant<int, 4>(), i);
  for (; i < count; ++i) body(std::integral_constant<int, 1>(), i);
}

inline int64_t forward(const Rows& z, int64_t units, const float* packed, double dense_above, const Lists& lists,
                       float* out) {
  constexpr int64_t block = V::tile_rows;
  const int64_t room = Lists::room(units), ldo = padded(units);
  int64_t total = 0;
  for (int64_t i = 0; i < z.count; ++i)
    total += lists.counts[i] = nonzero(z.data + i * z.stride, units, lists.active + i * room);
  if (total == 0 && dense_above >= 0) {
    memset(out, 0, static_cast<size_t>(z.count * ldo) * sizeof(float));
    return 0;
  }
  each_panel(packed, units, units, [&](auto vectors, int64_t unit, const float* panel) {
    constexpr int wide = decltype(vectors)::value;
    for (int64_t first = 0; first < z.count; first += block) {
      const int64_t here = std::min(block, z.count - first);
      int64_t active = 0;
      for (int64_t i = first; i < first + here; ++i) active += lists.counts[i];
      const bool dense = static_cast<double>(active) > dense_above * static_cast<double>(here * units);
      each_rows(here, [&](auto rows, int64_t i) {
        constexpr int many = decltype(rows)::value;
        i += first;
        const float* from = z.data + i * z.stride;
        const Place<float> to{out + i * ldo + unit, ldo, V::width};
        if (dense)
          return dense_tile<float, many, wide>(from, z.stride, panel, wide * V::width, units, {nullptr, 0, 0}, to);
        for (int j = 0; j < many; j += many < 4 ? 1 : 4)
          gather_tile < float,
              many<4 ? 1 : 4, wide>(from + j * z.stride, z.stride, lists.active + (i + j) * room, room,
                                    lists.counts + i + j, panel, {nullptr, 0, 0}, {to.to + j * ldo, ldo, V::width});
      });
    }
  });
  return total;
}

inline void backward(const Rows& g, int64_t units, const float* packed, float* out) {
  const int64_t ldo = padded(units);
  each_panel(packed, units, units, [&](auto vectors, int64_t unit, const float* panel) {
    constexpr int wide = decltype(vectors)::value;
    each_rows(g.count, [&](auto rows, int64_t i) {
      constexpr int many = decltype(rows)::value;
      dense_tile<float, many, wide>(g.data + i * g.stride, g.stride, panel, wide * V::width, units, {nullptr, 0, 0},
                                    {out + i * ldo + unit, ldo, V::width});
    });
  });
}

}  // namespace PA_ISA
}  // namespace recurrent
