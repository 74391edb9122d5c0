// Products with a left operand that is mostly zeros, computed from its non-zero entries: rows of spikes as addresses
// and sizes, and the table of kernels of one instruction set. All arrays are dense and of one floating type.
#pragma once
#include <cstdint>

namespace sparse {

constexpr int64_t kMostInputs = 65536;  // indices have 16 bits
constexpr int64_t kTileBytes = 256;     // of a row of a panel, at most
constexpr int64_t kLineWords = 16;      // of 32 bits in a cache line
constexpr int64_t kBlockRows = 2048;    // rows whose gradients are summed from one tile; fits the indices

// The non-zero entries of a matrix [rows, inputs], row after row, each in ascending order.
struct Spikes {
  int64_t rows, inputs;
  const int32_t* offsets;  // [rows + 1]
  const uint16_t* index;   // [offsets[rows]]
  const void* values;      // as many floats; nullptr: all are one
};

// Columns of the other operand or of the result that are summed together: `vectors` vectors from column `first` on.
struct Tile {
  int64_t first, columns;  // columns < vectors * width at the end of a row
  int vectors;             // 1, 2, 4 or 8
};

struct Kernels {
  int width;  // columns per vector

  // One row's bits, in words of 64; how many are set. `graded` becomes true if an entry is neither 0 nor 1.
  int64_t (*scan)(const void* x, int64_t inputs, uint64_t* mask, bool& graded);
  // Indices of the bits in a row; writes up to 64 entries past the last one.
  uint16_t* (*indices)(const uint64_t* mask, int64_t words, uint16_t* to);

  // A hash of each cache line of so many words.
  void (*hash)(const uint32_t* from, int64_t words, uint32_t* to);
  // panel[k][c] = weight[first + c][k], zeros beyond the last column; whether all are finite.
  bool (*pack)(const void* weight, int64_t inputs, const Tile&, void* panel);
  // out[r][first + c] = bias[first + c] + sum of values[e] * panel[index[e]][c], rows `begin` to `end`.
  void (*forward)(const Spikes&, int64_t begin, int64_t end, const Tile&, const void* panel, const void* bias,
                  void* out, int64_t ldo);

  // A tile of up to kBlockRows rows as a panel; adds each column to `sums`.
  void (*panel)(const void* from, int64_t ld, int64_t rows, const Tile&, void* panel, void* sums);
  // total[k][c] (= if `fresh`, else +=) sum of values[e] * panel[index[e]][c] over the entries of column k.
  void (*columns)(const int32_t* starts, const uint16_t* index, const void* values, int64_t begin, int64_t end,
                  const Tile&, const void* panel, void* total, bool fresh);
  // The same for one or two vectors, row after row: total[index[e]][c] += values[e] * from[r][c], and sums[c] +=
  // from[r][c].
  void (*scatter)(const Spikes&, int64_t begin, int64_t end, const Tile&, const void* from, int64_t ld, void* total,
                  void* sums);
  // to[first + c][k] = total[k][c].
  void (*unpack)(const void* total, int64_t begin, int64_t end, const Tile&, void* to, int64_t ld);
};

const Kernels* find_baseline(bool fp64);
const Kernels* find_avx2(bool fp64);
const Kernels* find_avx512(bool fp64);

}  // namespace sparse
