// Products with spikes on the CPU: cut into tiles, spread over threads. Every sum is taken by one thread in one order,
// so that nothing depends on the number of threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "../sparse/problem.h"
#include "blocks.h"

namespace sparse {

// A matrix of floats, [rows, inputs], whose columns lie side by side.
struct Dense {
  const void* data;
  int64_t rows, inputs, ld;
  bool fp64;
};

struct Seen {
  int64_t entries, nonzero;
  bool graded;  // an entry is neither 0 nor 1
};

// Some rows, evenly spaced.
Seen sample(const Dense& x, int64_t rows);
constexpr int64_t kChunkRows = 256;  // that are looked at in one piece
constexpr int64_t kPast = 64;        // entries that may be written past the last index

// Memory for indices before it is known how many there are: an equal part for each chunk of rows. A chunk that finds no
// room in it is listed from its bits later.
struct Lists {
  uint16_t* index;
  int64_t stride, room;
  Lists(uint16_t* at, int64_t elements, int64_t rows)
      : index(at),
        stride(elements / std::max<int64_t>((rows + kChunkRows - 1) / kChunkRows, 1)),
        room(stride - kPast) {}
};

// Bits of all rows, ceil(inputs / 64) words each, where each row's entries start, and indices as far as there is room.
Seen scan(const Dense& x, uint64_t* mask, int32_t* offsets, const Lists&, int threads);
// All indices; values from x, unless nullptr.
void fill(const Dense& x, const uint64_t* mask, const int32_t* offsets, const Lists&, uint16_t* index, void* values,
          int threads);
// Floats from bits alone.
void expand(const uint64_t* mask, const Spikes& to, bool fp64, void* out, int threads);

// Weights [outputs, inputs] as the kernels read them, and how to tell that the originals have changed since.
class Weights {
 public:
  Weights(bool fp64, const void* weight, int64_t inputs, int64_t outputs, int threads);
  // Whether there is no infinity or NaN, which a dense product spreads even where x is zero.
  bool finite() const { return finite_; }
  // Looks at `lines` cache lines of the originals, others at each call, and at the instruction set in use.
  bool same(const void* weight, int64_t lines, int threads) const;
  // out[rows, outputs] = x W^T + bias
  void forward(const Spikes& x, const void* bias, void* out, int threads) const;
  // The same from floats, for a few rows; the number of entries, or -1 if there are more than `most` (`out` is
  // untouched).
  int64_t step(const void* x, int64_t rows, int64_t ld, int64_t most, const void* bias, void* out, int threads) const;

 private:
  const bool fp64_;
  const int64_t inputs_, outputs_;
  const Kernels& kernels_;
  std::vector<Tile> tiles_;
  std::vector<const char*> at_;  // each tile's panel
  std::vector<size_t> groups_;   // first tiles of those whose panels stay in L2 together, and the end
  Block panels_;
  std::vector<uint32_t> hashes_;  // of each line
  mutable std::atomic<int64_t> next_{0};
  bool finite_;
};

// g_weight[outputs, inputs] = grad^T x, and g_bias[outputs], unless nullptr; whether all of grad is finite.
bool weight_gradient(bool fp64, const Spikes& x, const void* grad, int64_t ld, int64_t outputs, void* g_weight,
                     void* g_bias, int threads);

}  // namespace sparse
