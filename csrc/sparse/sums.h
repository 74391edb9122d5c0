// Sums of rows of a panel [..][vectors][width], picked by indices: what both products consist of.
#pragma once
#include "../sums/rows.h"
#include "problem.h"

namespace sparse {
namespace PA_ISA {

using egru::PA_ISA::Vec;

using sums::PA_ISA::add_rows;

constexpr int64_t kRowsAhead = 2;  // rows of the result that are on their way while a sum is taken

// Calls body with the number of vectors, and whether there are values, as constants.
template <class R, class Body>
PA_HD void specialised(int vectors, bool graded, const Body& body) {
  using std::integral_constant;
  const auto with = [&](auto n) __attribute__((always_inline)) {
    if (graded)
      body(n, std::true_type{});
    else
      body(n, std::false_type{});
  };
  if (vectors == 1) return with(integral_constant<int, 1>{});
  if (vectors == 2) return with(integral_constant<int, 2>{});
  if constexpr (8 * Vec<R>::width * sizeof(R) <= kTileBytes)
    if (vectors == 8) return with(integral_constant<int, 8>{});
  with(integral_constant<int, 4>{});
}

template <class R>
void forward(const Spikes& x, int64_t begin, int64_t end, const Tile& tile, const void* panel, const void* bias,
             void* out, int64_t ldo) {
  specialised<R>(tile.vectors, x.values != nullptr, [&](auto n, auto graded) {
    using V = Vec<R>;
    constexpr int N = decltype(n)::value, wide = N * V::width;
    const R *rows = static_cast<const R*>(panel), *values = static_cast<const R*>(x.values);
    R first[wide] = {}, last[wide];
    if (bias) memcpy(first, static_cast<const R*>(bias) + tile.first, static_cast<size_t>(tile.columns) * sizeof(R));
    for (int64_t r = begin; r < end; ++r) {
      V sum[N];
      const int64_t at = x.offsets[r];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) sum[j] = V::load(first + j * V::width);
      add_rows<decltype(graded)::value>(sum, x.offsets[r + 1] - at, values ? values + at : nullptr,
                                        [&](int64_t e) { return rows + int64_t{x.index[at + e]} * wide; });
      R* to = static_cast<R*>(out) + r * ldo + tile.first;
      for (int j = 0; j < N; ++j) __builtin_prefetch(to + kRowsAhead * ldo + j * V::width, 1);
      const bool whole = tile.columns == wide;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) sum[j].store((whole ? to : last) + j * V::width);
      if (!whole) memcpy(to, last, static_cast<size_t>(tile.columns) * sizeof(R));
    }
  });
}

template <class R>
void columns(const int32_t* starts, const uint16_t* index, const void* values, int64_t begin, int64_t end,
             const Tile& tile, const void* panel, void* total, bool fresh) {
  specialised<R>(tile.vectors, values != nullptr, [&](auto n, auto graded) {
    using V = Vec<R>;
    constexpr int N = decltype(n)::value;
    const R* rows = static_cast<const R*>(panel);
    for (int64_t k = begin; k < end; ++k) {
      V sum[N];
      R* to = static_cast<R*>(total) + (k - begin) * N * V::width;
      const int64_t at = starts[k], count = starts[k + 1] - at;
      if (count == 0 && !fresh) continue;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) sum[j] = fresh ? V::all(R(0)) : V::load(to + j * V::width);
      add_rows<decltype(graded)::value>(sum, count, values ? static_cast<const R*>(values) + at : nullptr,
                                        [&](int64_t e) { return rows + int64_t{index[at + e]} * (N * V::width); });
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) sum[j].store(to + j * V::width);
    }
  });
}

template <class R, int N, bool Graded>
void scatter_rows(const Spikes& x, int64_t begin, int64_t end, const Tile& tile, const R* from, int64_t ld, R* total,
                  R* sums) {
  using V = Vec<R>;
  constexpr int64_t wide = N * V::width, group = 64;  // of rows whose sum is taken first
  const R* values = static_cast<const R*>(x.values);
  R row[wide] = {}, part[wide] = {};
  for (int64_t r = begin; r < end; ++r) {
    memcpy(row, from + r * ld + tile.first, static_cast<size_t>(tile.columns) * sizeof(R));
    for (int64_t c = 0; c < wide; ++c) part[c] += row[c];
    V g[N];
    for (int j = 0; j < N; ++j) g[j] = V::load(row + j * V::width);
    for (int64_t e = x.offsets[r]; e < x.offsets[r + 1]; ++e) {
      R* to = total + static_cast<int64_t>(x.index[e]) * wide;
      for (int j = 0; j < N; ++j) {
        V sum = V::load(to + j * V::width);
        if constexpr (Graded)
          sum.add(V::all(values[e]), g[j]);
        else
          sum.add(g[j]);
        sum.store(to + j * V::width);
      }
    }
    if ((r - begin) % group == group - 1 || r + 1 == end)
      for (int64_t c = 0; c < wide; ++c) {
        sums[c] += part[c];
        part[c] = R(0);
      }
  }
}

template <class R>
void scatter(const Spikes& x, int64_t begin, int64_t end, const Tile& tile, const void* from, int64_t ld, void* total,
             void* sums) {
  const auto run = [&](auto f) {
    f(x, begin, end, tile, static_cast<const R*>(from), ld, static_cast<R*>(total), static_cast<R*>(sums));
  };
  if (tile.vectors == 1)
    run(x.values ? scatter_rows<R, 1, true> : scatter_rows<R, 1, false>);
  else
    run(x.values ? scatter_rows<R, 2, true> : scatter_rows<R, 2, false>);
}

}  // namespace PA_ISA
}  // namespace sparse
