// Between matrices and panels: weights and totals are transposed in blocks.
#pragma once
#include "../sums/transpose.h"
#include "sums.h"

namespace sparse {
namespace PA_ISA {

using sums::PA_ISA::transpose;

constexpr int64_t kSquare = 16;
constexpr int64_t kFetched = 8;  // rows of a gradient that are on their way: each lies in a page of its own

template <class R>
bool pack(const void* weight, int64_t inputs, const Tile& tile, void* panel) {
  const int64_t wide = tile.vectors * Vec<R>::width;
  const R* from = static_cast<const R*>(weight) + tile.first * inputs;
  R* to = static_cast<R*>(panel);
  if (tile.columns < wide) memset(to, 0, static_cast<size_t>(inputs * wide) * sizeof(R));
  for (int64_t c = 0; c < tile.columns; c += kSquare)  // as few rows of the weight at once as the hardware follows
    for (int64_t k = 0; k < inputs; k += kSquare)
      transpose(from + c * inputs + k, inputs, std::min(kSquare, tile.columns - c), std::min(kSquare, inputs - k),
                to + k * wide + c, wide);
  R odd[kSquare] = {};  // x - x is zero where x is finite, NaN elsewhere
  for (int64_t i = 0; i + kSquare <= inputs * wide; i += kSquare)
    for (int64_t j = 0; j < kSquare; ++j) odd[j] += to[i + j] - to[i + j];
  for (int64_t i = inputs * wide / kSquare * kSquare; i < inputs * wide; ++i) odd[0] += to[i] - to[i];
  R all = 0;
  for (const R o : odd) all += o;
  return all == R(0);
}

template <class R>
void unpack(const void* total, int64_t begin, int64_t end, const Tile& tile, void* to, int64_t ld) {
  const int64_t wide = tile.vectors * Vec<R>::width;
  const R* from = static_cast<const R*>(total);
  R* out = static_cast<R*>(to) + tile.first * ld;
  for (int64_t c = 0; c < tile.columns; c += kSquare)
    for (int64_t k = begin; k < end; k += kSquare)
      transpose(from + (k - begin) * wide + c, wide, std::min(kSquare, end - k), std::min(kSquare, tile.columns - c),
                out + c * ld + k, ld);
}

// Sums of columns go over groups of rows first: the error of one long chain would show in the bias's gradient.
template <class R>
void panel(const void* from, int64_t ld, int64_t rows, const Tile& tile, void* to, void* sums) {
  constexpr int64_t group = 64, most = 8 * Vec<R>::width;
  const int64_t wide = tile.vectors * Vec<R>::width;
  for (int64_t first = 0; first < rows; first += group) {
    R part[most] = {};
    for (int64_t r = first; r < std::min(rows, first + group); ++r) {
      const R* g = static_cast<const R*>(from) + r * ld + tile.first;
      R* row = static_cast<R*>(to) + r * wide;
      for (int64_t c = 0; c < wide; c += 64 / static_cast<int64_t>(sizeof(R)))
        __builtin_prefetch(g + kFetched * ld + c);
      for (int64_t c = 0; c < tile.columns; ++c) row[c] = g[c];
      for (int64_t c = tile.columns; c < wide; ++c) row[c] = R(0);
      for (int64_t c = 0; c < tile.columns; ++c) part[c] += g[c];
    }
    for (int64_t c = 0; c < tile.columns; ++c) static_cast<R*>(sums)[c] += part[c];
  }
}

}  // namespace PA_ISA
}  // namespace sparse
