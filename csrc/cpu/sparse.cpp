#include "sparse.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "blocks.h"
#include "dispatch.h"

namespace sparse {
namespace {

constexpr int64_t kPanelBytes = int64_t(1) << 20;  // of panels that are read at random: half of a common L2
constexpr int64_t kRowsTogether = 64;              // with all tiles of a group: their results' pages stay known
constexpr int64_t kHashed = 4096;                  // words at a time
constexpr int64_t kParallelWork = 1 << 16;         // additions below which a second thread costs too much
constexpr int64_t kFewTasks = 8;                   // fewer column tiles than this are cut by inputs, too
constexpr int64_t kLeastBlock = int64_t(2) << 20;

const Kernels& find(bool fp64) {
  const std::string name = isa();
  return *(name == "avx512" ? find_avx512(fp64) : name == "avx2" ? find_avx2(fp64) : find_baseline(fp64));
}

int64_t item_bytes(bool fp64) { return fp64 ? 8 : 4; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t words_of(int64_t inputs) { return ceil_div(inputs, 64); }

int usable(int threads, int64_t work) { return work < kParallelWork || in_forked_child() ? 1 : std::max(threads, 1); }

// Tiles over columns: rows of four lines, since longer ones are read no faster from L2 and fewer stay there; less if a
// panel of `depth` rows would not fit. What is left at the end is filled up to a power of two.
std::vector<Tile> tiles_of(const Kernels& k, int64_t columns, int64_t depth, int64_t item) {
  int most = 8;
  while (most > 2 && (most * k.width * item > kTileBytes || depth * most * k.width * item > kPanelBytes)) most /= 2;
  std::vector<Tile> tiles;
  for (int64_t c = 0; c < columns;) {
    int vectors = most;
    while (vectors > 1 && (vectors / 2) * k.width >= columns - c) vectors /= 2;
    tiles.push_back({c, std::min<int64_t>(vectors * k.width, columns - c), vectors});
    c += vectors * k.width;
  }
  return tiles;
}

const char* row_of(const Dense& x, int64_t r) {
  return static_cast<const char*>(x.data) + r * x.ld * item_bytes(x.fp64);
}

// Elements of the panels of all tiles.
int64_t panel_elements(const std::vector<Tile>& tiles, int64_t depth, int width) {
  int64_t count = 0;
  for (const Tile& t : tiles) count += depth * t.vectors * width;
  return count;
}

constexpr int64_t kStride = 40503;  // of the lines that are looked at: far apart, and all of them in turn

// values[begin to end] of row r at these indices.
void pick(const Dense& x, int64_t r, const uint16_t* index, int64_t begin, int64_t end, void* values) {
  for (int64_t e = begin; e < end; ++e)
    if (x.fp64)
      static_cast<double*>(values)[e] = reinterpret_cast<const double*>(row_of(x, r))[index[e - begin]];
    else
      static_cast<float*>(values)[e] = reinterpret_cast<const float*>(row_of(x, r))[index[e - begin]];
}

// The entries of each column within blocks of kBlockRows rows: rows counted from the block's first.
struct ByColumn {
  int64_t blocks;
  Block starts, index, values;

  ByColumn(const Spikes& x, int64_t item, int threads)
      : blocks(ceil_div(x.rows, kBlockRows)),
        starts(blocks * (x.inputs + 1) * 4),
        index(2 * x.offsets[x.rows]),
        values(x.values ? item * x.offsets[x.rows] : 0) {
    each(blocks, threads, [&](int64_t b, int) {
      if (!x.values)
        sort<char, false>(x, b);
      else if (item == 8)
        sort<double, true>(x, b);
      else
        sort<float, true>(x, b);
    });
  }
  int32_t* starts_at(int64_t b, int64_t inputs) const {
    return reinterpret_cast<int32_t*>(starts.data()) + b * (inputs + 1);
  }
  const uint16_t* rows() const { return reinterpret_cast<uint16_t*>(index.data()); }

  template <class R, bool Graded>
  void sort(const Spikes& x, int64_t b) {
    const int64_t first = b * kBlockRows, last = std::min(x.rows, first + kBlockRows);
    int32_t* at = starts_at(b, x.inputs);
    uint16_t* to = reinterpret_cast<uint16_t*>(index.data());
    R* values_to = reinterpret_cast<R*>(values.data());
    std::fill(at, at + x.inputs + 1, 0);
    for (int64_t e = x.offsets[first]; e < x.offsets[last]; ++e) ++at[x.index[e]];
    int32_t next = x.offsets[first];
    for (int64_t k = 0; k <= x.inputs; ++k) {
      const int32_t count = at[k];
      at[k] = next;
      next += count;
    }
    for (int64_t r = first; r < last; ++r)
      for (int64_t e = x.offsets[r]; e < x.offsets[r + 1]; ++e) {
        const int32_t place = at[x.index[e]]++;
        to[place] = static_cast<uint16_t>(r - first);
        if constexpr (Graded) values_to[place] = static_cast<const R*>(x.values)[e];
      }
    // Every start has moved to the next column's.
    for (int64_t k = x.inputs; k > 0; --k) at[k] = at[k - 1];
    at[0] = x.offsets[first];
  }
};

// Few columns: a total for each part of the rows, then their sum. Sorting the spikes would cost more than adding them.
template <class R>
void scatter(const Kernels& k, const Spikes& x, const Tile& tile, const void* grad, int64_t ld, int threads, R* total,
             R* sums) {
  const int64_t wide = tile.vectors * k.width, size = x.inputs * wide;
  const int64_t parts = x.rows < kChunkRows ? 1 : kFewTasks, rows = ceil_div(x.rows, parts);
  const Block memory((parts - 1) * (size + wide) * static_cast<int64_t>(sizeof(R)));
  R* others = reinterpret_cast<R*>(memory.data());
  each(parts, threads, [&](int64_t i, int) {
    R* mine = i ? others + (i - 1) * (size + wide) : total;
    R* mine_sums = i ? mine + size : sums;
    std::fill(mine, mine + size, R(0));
    std::fill(mine_sums, mine_sums + wide, R(0));
    k.scatter(x, std::min(x.rows, i * rows), std::min(x.rows, (i + 1) * rows), tile, grad, ld, mine, mine_sums);
  });
  for (int64_t i = 1; i < parts; ++i) {
    const R* more = others + (i - 1) * (size + wide);
    for (int64_t j = 0; j < size; ++j) total[j] += more[j];
    for (int64_t c = 0; c < wide; ++c) sums[c] += more[size + c];
  }
}

template <class R>
bool all_finite(const void* v, int64_t count) {
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= std::isfinite(static_cast<const R*>(v)[i]);
  return finite;
}

}  // namespace

Seen sample(const Dense& x, int64_t rows) {
  const Kernels& k = find(x.fp64);
  rows = std::min(rows, x.rows);
  const int64_t words = words_of(x.inputs);
  std::vector<uint64_t> mask(static_cast<size_t>(words));
  Seen seen{rows * x.inputs, 0, false};
  for (int64_t i = 0; i < rows; ++i) {
    seen.nonzero += k.scan(row_of(x, i * x.rows / rows), x.inputs, mask.data(), seen.graded);
  }
  return seen;
}

Seen scan(const Dense& x, uint64_t* mask, int32_t* offsets, const Lists& lists, int threads) {
  const Kernels& k = find(x.fp64);
  const int64_t words = words_of(x.inputs);
  std::atomic<bool> graded{false};
  each(ceil_div(x.rows, kChunkRows), usable(threads, x.rows * x.inputs), [&](int64_t chunk, int) {
    bool other = false;
    uint16_t* to = lists.index + chunk * lists.stride;
    int64_t left = lists.room;
    for (int64_t r = chunk * kChunkRows; r < std::min(x.rows, (chunk + 1) * kChunkRows); ++r) {
      const int64_t count = k.scan(row_of(x, r), x.inputs, mask + r * words, other);
      offsets[r + 1] = static_cast<int32_t>(count);
      left -= count;
      if (left >= 0) to = k.indices(mask + r * words, words, to);
    }
    if (other) graded = true;
  });
  offsets[0] = 0;
  for (int64_t r = 0; r < x.rows; ++r) offsets[r + 1] += offsets[r];
  return {x.rows * x.inputs, offsets[x.rows], graded};
}

void fill(const Dense& x, const uint64_t* mask, const int32_t* offsets, const Lists& lists, uint16_t* index,
          void* values, int threads) {
  const Kernels& k = find(x.fp64);
  const int64_t words = words_of(x.inputs);
  each(ceil_div(x.rows, kChunkRows), usable(threads, offsets[x.rows]), [&](int64_t chunk, int) {
    const int64_t first = chunk * kChunkRows, last = std::min(x.rows, first + kChunkRows);
    const int64_t count = offsets[last] - offsets[first];
    if (count <= lists.room) {
      memcpy(index + offsets[first], lists.index + chunk * lists.stride, static_cast<size_t>(count) * 2);
    } else {
      std::vector<uint16_t> found(static_cast<size_t>(x.inputs + kPast));
      for (int64_t r = first; r < last; ++r) {
        k.indices(mask + r * words, words, found.data());
        memcpy(index + offsets[r], found.data(), static_cast<size_t>(offsets[r + 1] - offsets[r]) * 2);
      }
    }
    for (int64_t r = first; values && r < last; ++r) pick(x, r, index + offsets[r], offsets[r], offsets[r + 1], values);
  });
}

template <class R>
static void expand_rows(const uint64_t* mask, const Spikes& x, R* out, int threads) {
  struct Table {
    R floats[256][8];  // of the bits of a byte
    Table() {
      for (int byte = 0; byte < 256; ++byte)
        for (int i = 0; i < 8; ++i) floats[byte][i] = static_cast<R>(byte >> i & 1);
    }
  };
  static const Table table;
  const int64_t words = words_of(x.inputs), whole = x.inputs / 8 * 8;
  each(ceil_div(x.rows, kChunkRows), usable(threads, x.rows * x.inputs), [&](int64_t chunk, int) {
    for (int64_t r = chunk * kChunkRows; r < std::min(x.rows, (chunk + 1) * kChunkRows); ++r) {
      R* row = out + r * x.inputs;
      if (mask) {
        const uint64_t* bits = mask + r * words;
        for (int64_t i = 0; i < whole; i += 8)
          memcpy(row + i, table.floats[bits[i / 64] >> (i % 64) & 255], sizeof table.floats[0]);
        for (int64_t i = whole; i < x.inputs; ++i) row[i] = static_cast<R>(bits[i / 64] >> (i % 64) & 1);
        continue;
      }
      std::fill(row, row + x.inputs, R(0));
      for (int64_t e = x.offsets[r]; e < x.offsets[r + 1]; ++e)
        row[x.index[e]] = x.values ? static_cast<const R*>(x.values)[e] : R(1);
    }
  });
}

void expand(const uint64_t* mask, const Spikes& x, bool fp64, void* out, int threads) {
  if (fp64)
    expand_rows(mask, x, static_cast<double*>(out), threads);
  else
    expand_rows(mask, x, static_cast<float*>(out), threads);
}

Weights::Weights(bool fp64, const void* weight, int64_t inputs, int64_t outputs, int threads)
    : fp64_(fp64),
      inputs_(inputs),
      outputs_(outputs),
      kernels_(find(fp64)),
      tiles_(tiles_of(kernels_, outputs, inputs, item_bytes(fp64))),
      panels_(panel_elements(tiles_, inputs, kernels_.width) * item_bytes(fp64)) {
  threads = usable(threads, inputs * outputs);
  const char *at = panels_.data(), *group = at;
  for (const Tile& t : tiles_) {
    const char* end = at + inputs * t.vectors * kernels_.width * item_bytes(fp64);
    if (at_.empty() || end - group > kPanelBytes) {
      groups_.push_back(at_.size());
      group = at;
    }
    at_.push_back(at);
    at = end;
  }
  groups_.push_back(at_.size());
  std::atomic<bool> finite{true};
  const int64_t words = inputs * outputs * item_bytes(fp64) / 4;
  hashes_.resize(static_cast<size_t>(ceil_div(words, kLineWords)));
  each(static_cast<int64_t>(tiles_.size()), threads, [&](int64_t i, int) {
    const size_t t = static_cast<size_t>(i);
    const Tile& tile = tiles_[t];
    if (!kernels_.pack(weight, inputs, tile, const_cast<char*>(at_[t]))) finite = false;
    // The lines that begin in the tile, while they are near.
    const int64_t row = words / outputs, first = ceil_div(tile.first * row, kLineWords);
    const int64_t end = std::min(words, up((tile.first + tile.columns) * row, kLineWords));
    const uint32_t* from = static_cast<const uint32_t*>(weight);
    if (first * kLineWords < end)
      kernels_.hash(from + first * kLineWords, end - first * kLineWords, hashes_.data() + first);
  });
  finite_ = finite;
}

bool Weights::same(const void* weight, int64_t wanted, int threads) const {
  if (&kernels_ != &find(fp64_)) return false;
  const uint32_t* from = static_cast<const uint32_t*>(weight);
  const int64_t words = inputs_ * outputs_ * item_bytes(fp64_) / 4, lines = static_cast<int64_t>(hashes_.size());
  const auto equal = [&](int64_t line, int64_t count) {
    uint32_t found[kHashed / kLineWords];
    kernels_.hash(from + line * kLineWords, std::min(count * kLineWords, words - line * kLineWords), found);
    return memcmp(found, hashes_.data() + line, static_cast<size_t>(count) * sizeof *found) == 0;
  };
  if (wanted >= lines) {
    std::atomic<bool> all{true};
    each(ceil_div(words, kHashed), usable(threads, words), [&](int64_t i, int) {
      const int64_t first = i * kHashed / kLineWords;
      if (!equal(first, std::min(kHashed / kLineWords, lines - first))) all = false;
    });
    return all;
  }
  const int64_t first = next_.fetch_add(wanted, std::memory_order_relaxed) & 0xFFFFFFFF;
  bool same = true;
  for (int64_t n = first; n < first + wanted; ++n) same &= equal((n * kStride + n / lines) % lines, 1);
  return same;
}

void Weights::forward(const Spikes& x, const void* bias, void* out, int threads) const {
  threads = usable(threads, (x.offsets[x.rows] + x.rows) * outputs_);
  const int64_t chunks = std::clamp<int64_t>(x.rows / kRowsTogether, 1, 4 * threads), rows = ceil_div(x.rows, chunks);
  each(static_cast<int64_t>(groups_.size() - 1) * chunks, threads, [&](int64_t i, int) {
    const size_t g = static_cast<size_t>(i / chunks);
    const int64_t begin = std::min(x.rows, i % chunks * rows), end = std::min(x.rows, begin + rows);
    for (int64_t r = begin; r < end; r += kRowsTogether)
      for (size_t t = groups_[g]; t < groups_[g + 1]; ++t)
        kernels_.forward(x, r, std::min(end, r + kRowsTogether), tiles_[t], at_[t], bias, out, outputs_);
  });
}

int64_t Weights::step(const void* data, int64_t rows, int64_t ld, int64_t most, const void* bias, void* out,
                      int threads) const {
  const Dense x{data, rows, inputs_, ld, fp64_};
  const int64_t words = words_of(inputs_);
  thread_local std::vector<uint64_t> mask;
  thread_local std::vector<uint16_t> index;
  thread_local std::vector<int32_t> offsets;
  thread_local std::vector<double> values;  // of either type
  mask.resize(static_cast<size_t>(words));
  offsets.assign(1, 0);
  bool graded = false;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t from = offsets.back();
    const int64_t to = from + kernels_.scan(row_of(x, r), inputs_, mask.data(), graded);
    if (to > most) return -1;
    index.resize(static_cast<size_t>(to + kPast));
    kernels_.indices(mask.data(), words, index.data() + from);
    offsets.push_back(static_cast<int32_t>(to));
  }
  if (graded) values.resize(static_cast<size_t>(offsets.back()) + 1);
  for (int64_t r = 0; graded && r < rows; ++r)
    pick(x, r, index.data() + offsets[static_cast<size_t>(r)], offsets[static_cast<size_t>(r)],
         offsets[static_cast<size_t>(r) + 1], values.data());
  forward({rows, inputs_, offsets.data(), index.data(), graded ? values.data() : nullptr}, bias, out, threads);
  return offsets.back();
}

bool weight_gradient(bool fp64, const Spikes& x, const void* grad, int64_t ld, int64_t outputs, void* g_weight,
                     void* g_bias, int threads) {
  const Kernels& k = find(fp64);
  const int64_t item = item_bytes(fp64);
  const int64_t depth = std::min(x.rows, kBlockRows);
  threads = usable(threads, (x.offsets[x.rows] + x.rows) * outputs);
  const std::vector<Tile> tiles = tiles_of(k, outputs, depth, item);
  const int64_t count = static_cast<int64_t>(tiles.size());
  if (count == 1 && tiles[0].vectors <= 2) {
    const int64_t few = tiles[0].vectors * k.width;
    const Block memory((x.inputs + 1) * few * item);
    char *total = memory.data(), *sums = total + x.inputs * few * item;
    if (fp64)
      scatter(k, x, tiles[0], grad, ld, threads, reinterpret_cast<double*>(total), reinterpret_cast<double*>(sums));
    else
      scatter(k, x, tiles[0], grad, ld, threads, reinterpret_cast<float*>(total), reinterpret_cast<float*>(sums));
    k.unpack(total, 0, x.inputs, tiles[0], g_weight, x.inputs);
    if (g_bias) memcpy(g_bias, sums, static_cast<size_t>(outputs * item));
    return fp64 ? all_finite<double>(sums, outputs) : all_finite<float>(sums, outputs);
  }
  const int64_t parts = std::clamp<int64_t>(ceil_div(kFewTasks, count), 1, ceil_div(x.inputs, 64));
  const int64_t inputs = up(ceil_div(x.inputs, parts), 16), wide = 8 * k.width;
  const ByColumn columns(x, item, threads);
  const int64_t panel_bytes = up(depth * wide * item, 4096), total_bytes = up(inputs * wide * item, 4096);
  const int64_t each_bytes = std::max(panel_bytes + total_bytes + up(wide * item, 64), kLeastBlock);
  const Block memory(each_bytes * threads);
  std::atomic<bool> finite{true};
  each(count * parts, threads, [&](int64_t i, int thread) {
    const Tile& tile = tiles[static_cast<size_t>(i / parts)];
    const int64_t begin = std::min(x.inputs, i % parts * inputs), end = std::min(x.inputs, begin + inputs);
    char* panel = memory.data() + each_bytes * thread;
    char *total = panel + panel_bytes, *sums = total + total_bytes;
    memset(sums, 0, static_cast<size_t>(wide * item));
    for (int64_t b = 0; b < columns.blocks; ++b) {
      const int64_t first = b * kBlockRows, rows = std::min(x.rows - first, kBlockRows);
      k.panel(static_cast<const char*>(grad) + first * ld * item, ld, rows, tile, panel, sums);
      k.columns(columns.starts_at(b, x.inputs), columns.rows(), x.values ? columns.values.data() : nullptr, begin, end,
                tile, panel, total, b == 0);
    }
    k.unpack(total, begin, end, tile, g_weight, x.inputs);
    if (i % parts) return;
    if (g_bias) memcpy(static_cast<char*>(g_bias) + tile.first * item, sums, static_cast<size_t>(tile.columns * item));
    // A sum is finite only if its terms are.
    if (!(fp64 ? all_finite<double>(sums, tile.columns) : all_finite<float>(sums, tile.columns))) finite = false;
  });
  return finite;
}

}  // namespace sparse
